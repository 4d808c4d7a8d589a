//! Looking rows up by primary key, with the help of [`hints`].

use std::ptr;

use pgrx::{itemptr::item_pointer_get_both, prelude::*};

use super::{
    columns::Columns,
    error::{serialization_failure, unexpected},
    locked::Locked,
    open::Table,
    relation::Relation,
    row::Row,
    slot::Slot,
    snapshot::Snapshot,
};
use crate::hints;

/// The type of a primary key's one column.
#[derive(Clone, Copy)]
pub enum KeyType {
    Bytea,
    Boolean,
}

/// Looks rows up, one after the other.
pub struct Find<'a, C> {
    table: &'a Table<C>,
    snapshot: &'a Snapshot,
    scan: pg_sys::IndexScanDesc,
    _index: Relation,
    key_type: KeyType,
    key_attribute: i32,
    /// Length of the table, which does not become smaller while it is open.
    blocks: pg_sys::BlockNumber,
    key: pg_sys::ScanKeyData,
    found: Slot,
    /// A slot for a row that is locked, and one for its next version; made when first needed.
    locked: Option<[Slot; 2]>,
}

impl<C: Columns> Table<C> {
    /// Finds rows by the primary key, a column of this type.
    pub fn find_by<'a>(&'a self, snapshot: &'a Snapshot, key_type: KeyType) -> Find<'a, C> {
        let (of_key, equal) = match key_type {
            KeyType::Bytea => (pg_sys::BYTEAOID, pg_sys::F_BYTEAEQ),
            KeyType::Boolean => (pg_sys::BOOLOID, pg_sys::F_BOOLEQ),
        };
        // SAFETY: the relation is open, and outlives the scan; the snapshot is registered.
        unsafe {
            let table = self.relation.0;
            let index = self.relation.primary_index();
            if *(*index.0).rd_opcintype != of_key {
                unexpected(C::NAME);
            }
            #[cfg(not(feature = "pg18"))]
            let scan = pg_sys::index_beginscan(table, index.0, snapshot.0, 1, 0);
            #[cfg(feature = "pg18")]
            let scan = pg_sys::index_beginscan(table, index.0, snapshot.0, ptr::null_mut(), 1, 0);
            let mut key = pg_sys::ScanKeyData::default();
            let equality = pg_sys::BTEqualStrategyNumber as pg_sys::StrategyNumber;
            pg_sys::ScanKeyInit(&raw mut key, 1, equality, equal.into(), pg_sys::Datum::null());
            let key_attribute = (*(*index.0).rd_index).indkey.values.as_slice(1)[0].into();
            let blocks = pg_sys::RelationGetNumberOfBlocksInFork(table, pg_sys::ForkNumber::MAIN_FORKNUM);
            let (found, locked) = (self.slot(), None);
            Find {
                table: self,
                snapshot,
                scan,
                _index: index,
                key_type,
                key_attribute,
                blocks,
                key,
                found,
                locked,
            }
        }
    }
}

impl<C: Columns> Find<'_, C> {
    fn seek(&mut self, key: pg_sys::Datum) -> bool {
        let bytes = match self.key_type {
            // SAFETY: the caller's key is of this type.
            KeyType::Bytea => unsafe { pgrx::varlena_to_byte_slice(key.cast_mut_ptr()) },
            KeyType::Boolean => &[],
        };
        if hints::get(bytes).is_some_and(|place| self.is_at(place, bytes)) {
            return true;
        }
        self.key.sk_argument = key;
        // SAFETY: the scan is open, and has one key, which it copies.
        unsafe {
            pg_sys::index_rescan(self.scan, &raw mut self.key, 1, ptr::null_mut(), 0);
            loop {
                let place = pg_sys::index_getnext_tid(self.scan, pg_sys::ScanDirection::ForwardScanDirection);
                let Some(&place) = place.as_ref() else { return false };
                if pg_sys::index_fetch_heap(self.scan, self.found.0) {
                    hints::set(bytes, place);
                    return true;
                }
            }
        }
    }

    /// Reads the row at this place, if there is one that is visible and has this key.
    fn is_at(&mut self, place: pg_sys::ItemPointerData, key: &[u8]) -> bool {
        let (block, _) = item_pointer_get_both(place);
        // SAFETY: as if the index had just said so: the scan is open, and the block exists. The key
        // is a bytea.
        block < self.blocks
            && unsafe {
                (*self.scan).xs_heaptid = place;
                (*self.scan).xs_heap_continue = false;
                pg_sys::index_fetch_heap(self.scan, self.found.0) && {
                    pg_sys::slot_getsomeattrs(self.found.0, self.key_attribute);
                    let found = *(*self.found.0).tts_values.add(self.key_attribute as usize - 1);
                    pgrx::varlena_to_byte_slice(found.cast_mut_ptr()) == key
                }
            }
    }

    /// The row with this key.
    pub fn get(&mut self, key: pg_sys::Datum) -> Option<Row<'_, C>> {
        // SAFETY: the slot holds the row until the next call, for which this borrow must have ended.
        self.seek(key).then(|| unsafe { Row::of(&self.found, &self.table.places) })
    }

    /// The newest version of the row with this key, locked until the end of the transaction: nobody
    /// else updates it. Waits while another transaction has it locked.
    pub fn lock(&mut self, key: pg_sys::Datum) -> Option<Locked<'_, C>> {
        if !self.seek(key) {
            return None;
        }
        // SAFETY: a setting of this process.
        let read_committed = unsafe { pg_sys::XactIsoLevel as u32 } < pg_sys::XACT_REPEATABLE_READ;
        let mut flags = pg_sys::TUPLE_LOCK_FLAG_LOCK_UPDATE_IN_PROGRESS;
        if read_committed {
            flags |= pg_sys::TUPLE_LOCK_FLAG_FIND_LAST_VERSION;
        }
        let [row, next] = self.locked.get_or_insert_with(|| [self.table.slot(), self.table.slot()]);
        // SAFETY: the slot holds a row of the table.
        let locked = unsafe {
            let mut failure = std::mem::zeroed::<pg_sys::TM_FailureData>();
            pg_sys::table_tuple_lock(
                self.table.relation.0,
                &raw mut (*self.found.0).tts_tid,
                self.snapshot.0,
                row.0,
                pg_sys::GetCurrentCommandId(true),
                pg_sys::LockTupleMode::LockTupleNoKeyExclusive,
                pg_sys::LockWaitPolicy::LockWaitBlock,
                flags as u8,
                &raw mut failure,
            )
        };
        match locked {
            pg_sys::TM_Result::TM_Ok => {
                Some(Locked { table: self.table, snapshot: self.snapshot, row, next })
            }
            pg_sys::TM_Result::TM_Deleted if read_committed => None,
            _ => serialization_failure(),
        }
    }
}

impl<C> Drop for Find<'_, C> {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            // SAFETY: open, and ended once.
            unsafe { pg_sys::index_endscan(self.scan) };
        }
    }
}
