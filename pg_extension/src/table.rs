//! Rows of our tables without a statement around them, for what a delivery does once for each
//! recipient: starting a statement costs PostgreSQL as much as ten rows of it. Rows are found by
//! primary key, locked, updated and inserted by the functions that PostgreSQL's executor and its
//! logical replication use, so that locks, visibility, rights, constraints, defaults, indexes, WAL
//! and statistics are what they are under SQL. Not so the checks of domains: a value has a type
//! of ours that holds what its domain asks for. Tables with anything more are refused: triggers,
//! rules, generated columns.
//!
//! PostgreSQL's errors, and ours, unwind through here. Whatever is open then is left to the
//! transaction's abort, which releases it all.

use std::{
    cell::{OnceCell, RefCell},
    ffi::{CStr, c_char},
    marker::PhantomData,
    ptr,
    thread::LocalKey,
};

use pgrx::{PgTupleDesc, itemptr::item_pointer_get_both, prelude::*};

use crate::{checks, hints};

/// Rows that go into a table together; PostgreSQL writes one WAL record for those that share a page.
const BATCH_ROWS: usize = 64;
/// Beyond, a batch is full too.
const BATCH_BYTES: usize = 256 * 1024;

/// Raises an error: a migration is missing, or one that this library does not know was made.
pub fn unexpected(table: &CStr) -> ! {
    ereport!(
        ERROR,
        PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
        format!("table {table:?} is not what this version of the extension expects")
    );
}

fn serialization_failure() -> ! {
    ereport!(
        ERROR,
        PgSqlErrorCode::ERRCODE_T_R_SERIALIZATION_FAILURE,
        "could not serialize access due to concurrent update"
    );
}

/// A table and its columns: see [`table!`].
pub trait Columns: Copy + 'static {
    const SCHEMA: &'static CStr;
    const NAME: &'static CStr;
    /// Names and types; a domain's type is what it is made of.
    const COLUMNS: &'static [(&'static CStr, pg_sys::Oid)];

    /// In [`Self::COLUMNS`].
    fn position(self) -> usize;
    fn known_places() -> &'static LocalKey<RefCell<Places>>;
}

/// Where a table's columns stand, counted from 0, and of what type they are: that, or a domain.
#[derive(Clone)]
pub struct Places(Vec<(usize, pg_sys::Oid)>);

impl Places {
    pub const UNKNOWN: Self = Self(Vec::new());

    fn of(table: &Relation, columns: &[(&CStr, pg_sys::Oid)]) -> Option<Self> {
        let attributes = table.attributes();
        let place = |&(name, wanted): &(&CStr, pg_sys::Oid)| {
            let (place, attribute) = attributes.iter().enumerate().find(|(_, one)| is_column(one, name))?;
            // SAFETY: a type of the catalog.
            let base = unsafe { pg_sys::getBaseType(attribute.atttypid) };
            (base == wanted).then_some((place, attribute.atttypid))
        };
        columns.iter().map(place).collect::<Option<_>>().map(Self)
    }

    /// Whether the columns still are what they were.
    fn hold(&self, table: &Relation, columns: &[(&CStr, pg_sys::Oid)]) -> bool {
        let attributes = table.attributes();
        let holds = |(&(place, declared), &(name, _)): (&(usize, pg_sys::Oid), &(&CStr, pg_sys::Oid))| {
            attributes.get(place).is_some_and(|one| is_column(one, name) && one.atttypid == declared)
        };
        self.0.len() == columns.len() && self.0.iter().zip(columns).all(holds)
    }
}

fn is_column(attribute: &pg_sys::FormData_pg_attribute, name: &CStr) -> bool {
    // SAFETY: names in the catalog end with zero.
    !attribute.attisdropped && unsafe { CStr::from_ptr(attribute.attname.data.as_ptr()) } == name
}

/// Declares an enum of those columns of a table that are read or written.
macro_rules! table {
    ($table:ident = $schema:literal, $name:literal { $($column:ident = $text:literal $type:ident),* $(,)? }) => {
        #[derive(Clone, Copy)]
        enum $table { $($column),* }

        impl $crate::table::Columns for $table {
            const SCHEMA: &'static std::ffi::CStr = $schema;
            const NAME: &'static std::ffi::CStr = $name;
            const COLUMNS: &'static [(&'static std::ffi::CStr, pgrx::pg_sys::Oid)] =
                &[$(($text, pgrx::pg_sys::$type)),*];

            fn position(self) -> usize {
                self as usize
            }

            fn known_places() -> &'static std::thread::LocalKey<std::cell::RefCell<$crate::table::Places>> {
                thread_local! {
                    static PLACES: std::cell::RefCell<$crate::table::Places> =
                        const { std::cell::RefCell::new($crate::table::Places::UNKNOWN) };
                }
                &PLACES
            }
        }
    };
}
pub(crate) use table;

/// What is committed when it is taken, and what the transaction did before.
pub struct Snapshot(pg_sys::Snapshot);

impl Snapshot {
    pub fn take() -> Self {
        // SAFETY: in a transaction.
        unsafe { Self(pg_sys::RegisterSnapshot(pg_sys::GetTransactionSnapshot())) }
    }
}

impl Drop for Snapshot {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            // SAFETY: registered, and the current resource owner is the one it was.
            unsafe { pg_sys::UnregisterSnapshot(self.0) };
        }
    }
}

/// Makes what was written visible to the transaction's next snapshot.
pub fn end_command() {
    // SAFETY: in a transaction that may write.
    unsafe { pg_sys::CommandCounterIncrement() };
}

/// What a table is opened for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Access {
    Read,
    /// And to read.
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
    relation: Relation,
    places: Places,
    columns: PhantomData<C>,
}

struct Relation(pg_sys::Relation);

impl Relation {
    /// Whether writing it here does all that SQL would do.
    fn is_plain(&self) -> bool {
        // SAFETY: open, so that its parts are valid.
        unsafe {
            let class = (*self.0).rd_rel;
            let constraints = (*(*self.0).rd_att).constr;
            (*class).relkind == pg_sys::RELKIND_RELATION as c_char
                && !(*class).relispartition
                && (*self.0).trigdesc.is_null()
                && (*self.0).rd_rules.is_null()
                && (constraints.is_null() || !has_generated(&*constraints))
        }
    }

    fn attributes(&self) -> PgTupleDesc<'_> {
        // SAFETY: open, so that its descriptor is valid.
        unsafe { PgTupleDesc::from_pg_unchecked((*self.0).rd_att) }
    }
}

fn has_generated(constraints: &pg_sys::TupleConstr) -> bool {
    #[cfg(feature = "pg18")]
    if constraints.has_generated_virtual {
        return true;
    }
    constraints.has_generated_stored
}

impl Drop for Relation {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            // SAFETY: open, and closed once. It stays locked.
            unsafe { pg_sys::relation_close(self.0, pg_sys::NoLock as pg_sys::LOCKMODE) };
        }
    }
}

impl<C: Columns> Table<C> {
    /// Opens it for a user who has the rights.
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
            let places = Self::places(&relation).unwrap_or_else(|| unexpected(C::NAME));
            Self { writer: OnceCell::new(), relation, places, columns: PhantomData }
        }
    }

    fn places(table: &Relation) -> Option<Places> {
        C::known_places().with_borrow_mut(|known| {
            if !known.hold(table, C::COLUMNS) {
                *known = Places::of(table, C::COLUMNS)?;
            }
            Some(known.clone())
        })
    }

    pub fn oid(&self) -> pg_sys::Oid {
        // SAFETY: the relation is open.
        unsafe { (*self.relation.0).rd_id }
    }

    fn place(&self, column: C) -> usize {
        self.places.0[column.position()].0
    }

    fn slot(&self) -> Slot {
        // SAFETY: the relation is open.
        Slot(unsafe { pg_sys::table_slot_create(self.relation.0, ptr::null_mut()) })
    }

    fn writer(&self) -> &Writer {
        self.writer.get_or_init(|| Writer::new(&self.relation))
    }

    /// Finds rows by the primary key, a column of this type.
    pub fn find_by<'a>(&'a self, snapshot: &'a Snapshot, key_type: KeyType) -> Find<'a, C> {
        let (of_key, equal) = match key_type {
            KeyType::Bytea => (pg_sys::BYTEAOID, pg_sys::F_BYTEAEQ),
            KeyType::Boolean => (pg_sys::BOOLOID, pg_sys::F_BOOLEQ),
        };
        // SAFETY: the relation is open, and outlives what is made here; the snapshot is registered.
        unsafe {
            let table = self.relation.0;
            let index = primary_index(&self.relation);
            if *(*index.0).rd_opcintype != of_key {
                unexpected(C::NAME);
            }
            #[cfg(not(feature = "pg18"))]
            let scan = pg_sys::index_beginscan(table, index.0, snapshot.0, 1, 0);
            #[cfg(feature = "pg18")]
            let scan = pg_sys::index_beginscan(table, index.0, snapshot.0, ptr::null_mut(), 1, 0);
            let mut key = pg_sys::ScanKeyData::default();
            let equality = pg_sys::BTEqualStrategyNumber as pg_sys::StrategyNumber;
            pg_sys::ScanKeyInit(&mut key, 1, equality, equal.into(), pg_sys::Datum::null());
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

    pub fn insert(&self) -> Insert<'_, C> {
        let known = |place| self.places.0.iter().any(|&(known, _)| known == place);
        let attributes = self.relation.attributes();
        let unknown = attributes.iter().enumerate().filter(|&(place, one)| one.atthasdef && !known(place));
        let defaults = unknown.map(|(place, _)| (place, self.writer().prepare_default(place))).collect();
        Insert { table: self, defaults, slots: Vec::new(), rows: 0, bytes: 0 }
    }
}

/// What a primary key is made of.
#[derive(Clone, Copy)]
pub enum KeyType {
    Bytea,
    Boolean,
}

fn primary_index(table: &Relation) -> Relation {
    // SAFETY: the table is open. Without a primary key PostgreSQL raises an error.
    unsafe {
        #[cfg(not(feature = "pg18"))]
        let oid = pg_sys::RelationGetPrimaryKeyIndex(table.0);
        #[cfg(feature = "pg18")]
        let oid = pg_sys::RelationGetPrimaryKeyIndex(table.0, false);
        Relation(pg_sys::index_open(oid, pg_sys::AccessShareLock as pg_sys::LOCKMODE))
    }
}

struct Slot(*mut pg_sys::TupleTableSlot);

impl Slot {
    /// Fills it with a row's values.
    ///
    /// # Safety
    /// They must be of the types of the table's columns, and valid until [`Self::own`].
    unsafe fn store(&mut self, set: impl FnOnce(&mut [pg_sys::Datum], &mut [bool])) {
        // SAFETY: the slot has as many values as its descriptor has attributes.
        unsafe {
            pg_sys::ExecClearTuple(self.0);
            let len = (*(*self.0).tts_tupleDescriptor).natts as usize;
            set(
                std::slice::from_raw_parts_mut((*self.0).tts_values, len),
                std::slice::from_raw_parts_mut((*self.0).tts_isnull, len),
            );
            pg_sys::ExecStoreVirtualTuple(self.0);
        }
    }

    /// Copies the values into a row of its own.
    fn own(&mut self) {
        // SAFETY: the slot is filled.
        unsafe { pg_sys::ExecMaterializeSlot(self.0) };
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            // SAFETY: made by us, and dropped once.
            unsafe { pg_sys::ExecDropSingleTupleTableSlot(self.0) };
        }
    }
}

/// A row that was read.
#[derive(Clone, Copy)]
pub struct Row<'a, C> {
    values: &'a [pg_sys::Datum],
    nulls: &'a [bool],
    places: &'a Places,
    columns: PhantomData<C>,
}

impl<'a, C: Columns> Row<'a, C> {
    /// # Safety
    /// The slot must hold a row of the table, for as long as the result is used.
    unsafe fn of(slot: &'a Slot, places: &'a Places) -> Self {
        // SAFETY: as the caller says.
        unsafe {
            pg_sys::slot_getallattrs(slot.0);
            let len = (*(*slot.0).tts_tupleDescriptor).natts as usize;
            Self {
                values: std::slice::from_raw_parts((*slot.0).tts_values, len),
                nulls: std::slice::from_raw_parts((*slot.0).tts_isnull, len),
                places,
                columns: PhantomData,
            }
        }
    }

    fn datum(&self, column: C) -> Option<pg_sys::Datum> {
        let place = self.places.0[column.position()].0;
        (!self.nulls[place]).then(|| self.values[place])
    }

    fn present(&self, column: C) -> usize {
        self.datum(column).unwrap_or_else(|| unexpected(C::NAME)).value()
    }

    /// A `bytea`, or a text's bytes. The column must be one, as in the methods that follow.
    pub fn bytes(&self, column: C) -> Option<&'a [u8]> {
        // SAFETY: a value of variable length is a pointer to it; what PostgreSQL has to unpack
        // first lives as long as the function call.
        self.datum(column).map(|datum| unsafe {
            pgrx::varlena_to_byte_slice(pg_sys::pg_detoast_datum_packed(datum.cast_mut_ptr()))
        })
    }

    /// What the bytes of a `bytea` that is not null make.
    pub fn value<T: TryFrom<&'a [u8]>>(&self, column: C) -> T {
        let value = self.bytes(column).and_then(|bytes| bytes.try_into().ok());
        value.unwrap_or_else(|| unexpected(C::NAME))
    }

    /// A `bigint` that is not null.
    pub fn bigint(&self, column: C) -> i64 {
        self.present(column) as i64
    }

    /// An `integer` that is not null, or a date's days since 2000.
    pub fn integer(&self, column: C) -> i32 {
        self.present(column) as i32
    }

    /// A `boolean` that is not null.
    pub fn boolean(&self, column: C) -> bool {
        self.present(column) & 0xff != 0
    }
}

/// Looks rows up, one after the other.
pub struct Find<'a, C> {
    table: &'a Table<C>,
    snapshot: &'a Snapshot,
    scan: pg_sys::IndexScanDesc,
    _index: Relation,
    key_type: KeyType,
    key_attribute: i32,
    /// Of the table, which does not become smaller while it is open.
    blocks: pg_sys::BlockNumber,
    key: pg_sys::ScanKeyData,
    found: Slot,
    /// Of a row that is locked, and of what becomes of it; made when first needed.
    locked: Option<[Slot; 2]>,
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
            pg_sys::index_rescan(self.scan, &mut self.key, 1, ptr::null_mut(), 0);
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
        // SAFETY: the slot holds the row until the next call, which needs the loan back.
        self.seek(key).then(|| unsafe { Row::of(&self.found, &self.table.places) })
    }

    /// The row with this key as it stands now, locked until the end of the transaction: nobody else
    /// updates it. Waits for who has it locked.
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
                &mut (*self.found.0).tts_tid,
                self.snapshot.0,
                row.0,
                pg_sys::GetCurrentCommandId(true),
                pg_sys::LockTupleMode::LockTupleNoKeyExclusive,
                pg_sys::LockWaitPolicy::LockWaitBlock,
                flags as u8,
                &mut failure,
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

/// A row that nobody else updates.
pub struct Locked<'a, C> {
    table: &'a Table<C>,
    snapshot: &'a Snapshot,
    row: &'a Slot,
    next: &'a mut Slot,
}

impl<C: Columns> Locked<'_, C> {
    pub fn row(&self) -> Row<'_, C> {
        // SAFETY: the slot holds the row until the next call of `lock`, which needs the loan back.
        unsafe { Row::of(self.row, &self.table.places) }
    }

    /// Writes the row with these columns changed.
    ///
    /// # Safety
    /// The values must be of the types of the columns.
    pub unsafe fn update(self, changes: &[(C, pg_sys::Datum)]) {
        let Self { table, snapshot, row: slot, next } = self;
        // SAFETY: the other values are the row's own, in a slot that outlives this. Whoever
        // calls answers for the new ones.
        unsafe {
            let row = Row::<C>::of(slot, &table.places);
            next.store(|values, nulls| {
                values.copy_from_slice(row.values);
                nulls.copy_from_slice(row.nulls);
                for &(column, value) in changes {
                    let place = table.place(column);
                    (values[place], nulls[place]) = (value, false);
                }
            });
            let writer = table.writer();
            writer.check(next);
            let (relation, place) = (table.relation.0, &raw mut (*slot.0).tts_tid);
            let mut indexes = Indexes::default();
            pg_sys::simple_table_tuple_update(relation, place, next.0, snapshot.0, &mut indexes);
            writer.index_updated(next, indexes);
        }
    }
}

/// Which indexes an update concerns.
#[cfg(feature = "pg15")]
type Indexes = bool;
#[cfg(not(feature = "pg15"))]
type Indexes = pg_sys::TU_UpdateIndexes::Type;

/// What PostgreSQL's executor keeps to check rows and to write a table's indexes.
struct Writer {
    state: *mut pg_sys::EState,
    result: *mut pg_sys::ResultRelInfo,
}

impl Writer {
    fn new(relation: &Relation) -> Self {
        // SAFETY: the relation is open. All of it lives in the state's memory.
        unsafe {
            let state = pg_sys::CreateExecutorState();
            let before = pg_sys::MemoryContextSwitchTo((*state).es_query_cxt);
            let result = pg_sys::palloc0(size_of::<pg_sys::ResultRelInfo>()).cast::<pg_sys::ResultRelInfo>();
            (*result).type_ = pg_sys::NodeTag::T_ResultRelInfo;
            // Not in a range table: there is no query.
            pg_sys::InitResultRelInfo(result, relation.0, 0, ptr::null_mut(), 0);
            pg_sys::MemoryContextSwitchTo(before);
            let checks = checks::prepared((*relation.0).rd_id, &*(*relation.0).rd_att);
            #[cfg(not(feature = "pg18"))]
            {
                (*result).ri_ConstraintExprs = checks;
            }
            #[cfg(feature = "pg18")]
            {
                (*result).ri_CheckConstraintExprs = checks;
            }
            Self { state, result }
        }
    }

    /// The default of a column that has one.
    fn prepare_default(&self, place: usize) -> *mut pg_sys::ExprState {
        // SAFETY: the relation is open. The expression lives in the state's memory.
        unsafe {
            let before = pg_sys::MemoryContextSwitchTo((*self.state).es_query_cxt);
            let default = pg_sys::build_column_default((*self.result).ri_RelationDesc, place as i32 + 1);
            let default = pg_sys::ExecPrepareExpr(default.cast(), self.state);
            pg_sys::MemoryContextSwitchTo(before);
            default
        }
    }

    /// The value of a default, which lives as long as the state; none for null.
    fn default(&self, default: *mut pg_sys::ExprState) -> Option<pg_sys::Datum> {
        // SAFETY: the expression was prepared with this state, which has its context from then on.
        unsafe {
            let mut null = false;
            if (*self.state).es_per_tuple_exprcontext.is_null() {
                pg_sys::MakePerTupleExprContext(self.state);
            }
            let context = (*self.state).es_per_tuple_exprcontext;
            let value = pg_sys::ExecEvalExprSwitchContext(default, context, &mut null);
            (!null).then_some(value)
        }
    }

    /// Raises an error if the row breaks a constraint of the table.
    fn check(&self, slot: &Slot) {
        // SAFETY: the slot holds a row of the relation.
        unsafe {
            // A constraint may refer to it.
            (*slot.0).tts_tableOid = (*(*self.result).ri_RelationDesc).rd_id;
            if !(*(*slot.0).tts_tupleDescriptor).constr.is_null() {
                pg_sys::ExecConstraints(self.result, slot.0, self.state);
            }
        }
    }

    fn index_inserted(&self, slot: &Slot) {
        self.index(slot, false, false);
    }

    fn index_updated(&self, slot: &Slot, indexes: Indexes) {
        #[cfg(feature = "pg15")]
        if indexes {
            self.index(slot, true, false);
        }
        #[cfg(not(feature = "pg15"))]
        if indexes != pg_sys::TU_UpdateIndexes::TU_None {
            self.index(slot, true, indexes == pg_sys::TU_UpdateIndexes::TU_Summarizing);
        }
    }

    fn index(&self, slot: &Slot, update: bool, _only_summarizing: bool) {
        // SAFETY: the row in the slot was just written, which put its place there.
        unsafe {
            // Hardly any update needs them.
            if (*self.result).ri_NumIndices == 0 {
                let before = pg_sys::MemoryContextSwitchTo((*self.state).es_query_cxt);
                pg_sys::ExecOpenIndices(self.result, false);
                pg_sys::MemoryContextSwitchTo(before);
            }
            pg_sys::ExecInsertIndexTuples(
                self.result,
                slot.0,
                self.state,
                update,
                false,
                ptr::null_mut(),
                ptr::null_mut(),
                #[cfg(not(feature = "pg15"))]
                _only_summarizing,
            );
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            // SAFETY: made by us, and dropped once; the relation is still open.
            unsafe {
                pg_sys::ExecCloseIndices(self.result);
                pg_sys::FreeExecutorState(self.state);
            }
        }
    }
}

/// Inserts rows, many at a time.
pub struct Insert<'a, C> {
    table: &'a Table<C>,
    /// Of columns that are not known here.
    defaults: Vec<(usize, *mut pg_sys::ExprState)>,
    slots: Vec<Slot>,
    /// In the first slots, and not written yet.
    rows: usize,
    bytes: usize,
}

impl<C: Columns> Insert<'_, C> {
    /// Adds a row; of the known columns, those that are not given are null. `bytes`: about how
    /// large it is.
    ///
    /// # Safety
    /// The values must be of the types of the columns.
    pub unsafe fn row<const N: usize>(&mut self, bytes: usize, row: [(C, Option<pg_sys::Datum>); N]) {
        if self.rows == self.slots.len() {
            self.slots.push(self.table.slot());
        }
        let slot = &mut self.slots[self.rows];
        let table = self.table;
        // SAFETY: as the caller says.
        unsafe {
            slot.store(|values, nulls| {
                nulls.fill(true);
                let given = row.into_iter().map(|(column, value)| (table.place(column), value));
                let defaults = self.defaults.iter();
                for (place, value) in
                    given.chain(defaults.map(|&(n, default)| (n, table.writer().default(default))))
                {
                    if let Some(value) = value {
                        (values[place], nulls[place]) = (value, false);
                    }
                }
            });
        }
        self.table.writer().check(slot);
        slot.own();
        self.rows += 1;
        self.bytes += bytes;
        if self.rows == BATCH_ROWS || self.bytes >= BATCH_BYTES {
            self.write();
        }
    }

    /// Writes what is not written yet.
    pub fn finish(mut self) {
        self.write();
    }

    fn write(&mut self) {
        if self.rows == 0 {
            return;
        }
        let mut slots: Vec<_> = self.slots[..self.rows].iter().map(|slot| slot.0).collect();
        // SAFETY: each slot holds a row of the table.
        unsafe {
            let command = pg_sys::GetCurrentCommandId(true);
            let len = self.rows as i32;
            let relation = self.table.relation.0;
            pg_sys::table_multi_insert(relation, slots.as_mut_ptr(), len, command, 0, ptr::null_mut());
        }
        for slot in &self.slots[..self.rows] {
            self.table.writer().index_inserted(slot);
            // SAFETY: the slot is ours; its row is written.
            unsafe { pg_sys::ExecClearTuple(slot.0) };
        }
        (self.rows, self.bytes) = (0, 0);
    }
}
