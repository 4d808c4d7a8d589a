//! `bytea` and `bytea[]` values built in place, so that a ciphertext is written where PostgreSQL
//! reads it.

use pgrx::{IntoDatum, pg_sys};

/// A `bytea`, whose memory is used for one value after the other. It is made of words, because
/// PostgreSQL wants it aligned to four bytes.
#[derive(Default)]
pub struct Bytea {
    words: Vec<u32>,
}

impl Bytea {
    /// Makes it `len` zero bytes for the caller to fill in.
    pub fn zeroed(&mut self, len: usize) -> &mut [u8] {
        self.words.clear();
        self.words.resize(1 + len.div_ceil(4), 0);
        self.words[0] = varlena_header(4 + len);
        // SAFETY: the words after the first hold at least `len` bytes, and any bytes are valid.
        unsafe { std::slice::from_raw_parts_mut(self.words[1..].as_mut_ptr().cast(), len) }
    }

    /// Makes it a copy of `bytes`.
    pub fn set(&mut self, bytes: &[u8]) -> &Self {
        self.zeroed(bytes.len()).copy_from_slice(bytes);
        self
    }

    /// The value as PostgreSQL takes it; valid until the next one is made.
    pub fn datum(&self) -> pg_sys::Datum {
        pg_sys::Datum::from(self.words.as_ptr())
    }
}

/// Words of an array's header (PostgreSQL's `ArrayType` with one dimension and no nulls):
/// total size, dimensions, offset of the data, element type, length, lower bound.
const HEADER: usize = 6;
/// An empty array has no dimension, so its header ends before length and lower bound.
const EMPTY_HEADER: usize = 4;

/// A one-dimensional `bytea[]` without nulls. It is made of words, because PostgreSQL wants the
/// array and each of its elements aligned to four bytes.
pub struct ByteaArray {
    words: Vec<u32>,
}

impl ByteaArray {
    /// An array of equally long elements.
    pub fn of<'a, const N: usize>(elements: impl ExactSizeIterator<Item = &'a [u8; N]>) -> Self {
        let len = elements.len();
        let mut words = Vec::with_capacity(HEADER + len * (1 + N.div_ceil(4)));
        words.extend([varlena_header(4 * EMPTY_HEADER), 0, 0, pg_sys::BYTEAOID.to_u32(), 0, 1]);
        let mut bytea = Bytea::default();
        elements.for_each(|element| words.extend_from_slice(&bytea.set(element).words));
        if len > 0 {
            words[0] = varlena_header(4 * words.len());
            words[1] = 1;
            words[4] = len as u32;
        }
        Self { words }
    }
}

/// The four-byte length word of an uncompressed varlena; PostgreSQL refuses allocations
/// beyond 1 GB long before a length stops fitting.
fn varlena_header(len: usize) -> u32 {
    let len = len as u32;
    if cfg!(target_endian = "big") { len & 0x3fff_ffff } else { len << 2 }
}

/// Valid for as long as the array is borrowed.
impl IntoDatum for &ByteaArray {
    fn into_datum(self) -> Option<pg_sys::Datum> {
        Some(pg_sys::Datum::from(self.words.as_ptr()))
    }

    fn type_oid() -> pg_sys::Oid {
        pg_sys::BYTEAARRAYOID
    }
}
