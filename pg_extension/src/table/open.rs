//! Opening a table, with the locks and for the rights that SQL would need.

use std::{cell::OnceCell, marker::PhantomData, ptr};

use pgrx::prelude::*;

use super::{
    columns::{Columns, Places},
    error::unexpected,
    relation::Relation,
    slot::Slot,
    writer::Writer,
};

/// The use for which a table is opened, which decides lock and rights.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Access {
    Read,
    /// Reading is included.
    Update,
    Insert,
}

impl Access {
    fn rights(self) -> pg_sys::AclMode {
        let rights = match self {
            Self::Read => pg_sys::ACL_SELECT,
            Self::Update => pg_sys::ACL_SELECT | pg_sys::ACL_UPDATE,
            Self::Insert => pg_sys::ACL_INSERT,
        };
        rights as pg_sys::AclMode
    }
}

/// An open table, locked against changes of its shape until the end of the transaction.
pub struct Table<C> {
    writer: OnceCell<Writer>,
    pub(super) relation: Relation,
    pub(super) places: Places,
    columns: PhantomData<C>,
}

impl<C: Columns> Table<C> {
    /// Opens the table. Raises PostgreSQL's error if the current user has not the rights.
    pub fn open(access: Access) -> Self {
        // SAFETY: the names end with zero; the relation is open, and so its parts are valid.
        unsafe {
            let schema = pg_sys::get_namespace_oid(C::SCHEMA.as_ptr(), true);
            let oid = pg_sys::get_relname_relid(C::NAME.as_ptr(), schema);
            if oid == pg_sys::InvalidOid {
                unexpected(C::NAME);
            }
            let wanted = access.rights();
            let all = pg_sys::AclMaskHow::ACLMASK_ALL;
            if pg_sys::pg_class_aclmask(oid, pg_sys::GetUserId(), wanted, all) != wanted {
                let (denied, table) = (pg_sys::AclResult::ACLCHECK_NO_PRIV, pg_sys::ObjectType::OBJECT_TABLE);
                pg_sys::aclcheck_error(denied, table, C::NAME.as_ptr());
            }
            let writes = access != Access::Read;
            if writes {
                pg_sys::PreventCommandIfReadOnly(c"a delivery".as_ptr());
            }
            let lock = if writes { pg_sys::RowExclusiveLock } else { pg_sys::AccessShareLock };
            let relation = Relation(pg_sys::relation_open(oid, lock as pg_sys::LOCKMODE));
            if writes && !relation.is_plain() {
                unexpected(C::NAME);
            }
            if access == Access::Update {
                pg_sys::CheckCmdReplicaIdentity(relation.0, pg_sys::CmdType::CMD_UPDATE);
            }
            let places = Places::of::<C>(&relation).unwrap_or_else(|| unexpected(C::NAME));
            Self { writer: OnceCell::new(), relation, places, columns: PhantomData }
        }
    }

    pub fn oid(&self) -> pg_sys::Oid {
        // SAFETY: the relation is open.
        unsafe { (*self.relation.0).rd_id }
    }

    pub(super) fn slot(&self) -> Slot {
        // SAFETY: the relation is open.
        Slot(unsafe { pg_sys::table_slot_create(self.relation.0, ptr::null_mut()) })
    }

    pub(super) fn writer(&self) -> &Writer {
        self.writer.get_or_init(|| Writer::new(&self.relation))
    }
}
