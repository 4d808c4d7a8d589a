//! Overwriting the bytes that deleted rows leave on disk (PRIV-3). VACUUM takes a dead row off its
//! page by moving the others together; its bytes stay in the gap between, and a table that goes on
//! being filled is not cut either. So an acknowledged message would lie there, sealed but not gone,
//! until another row happens to be written over it.

use pgrx::{PgRelation, prelude::*};

/// Fills the gaps of `blocks` pages of a table, from `first_block` on, with zeros; false when the
/// table has no pages after those. PostgreSQL reads no gap, so this needs no record in the WAL, and
/// others wait no longer than one page takes.
#[pg_extern]
fn scrub(relation: pg_sys::Oid, first_block: i64, blocks: i32) -> bool {
    // SAFETY: opened with a lock that keeps the file from being cut or replaced; each buffer is
    // locked exclusively while its page is read and written.
    unsafe {
        let relation = PgRelation::with_lock(relation, pg_sys::RowExclusiveLock as pg_sys::LOCKMODE);
        let all = i64::from(pg_sys::RelationGetNumberOfBlocksInFork(
            relation.as_ptr(),
            pg_sys::ForkNumber::MAIN_FORKNUM,
        ));
        let end = all.min(first_block.saturating_add(blocks.into()));
        // A few buffers of its own, so that it drives no other pages out of the cache.
        let strategy = pg_sys::GetAccessStrategy(pg_sys::BufferAccessStrategyType::BAS_VACUUM);
        for block in first_block.max(0)..end {
            pgrx::check_for_interrupts!();
            let buffer = pg_sys::ReadBufferExtended(
                relation.as_ptr(),
                pg_sys::ForkNumber::MAIN_FORKNUM,
                block as pg_sys::BlockNumber,
                pg_sys::ReadBufferMode::RBM_NORMAL,
                strategy,
            );
            pg_sys::LockBuffer(buffer, pg_sys::BUFFER_LOCK_EXCLUSIVE as i32);
            if fill_gap(pg_sys::BufferGetPage(buffer)) {
                // With checksums, a hint logs the page first if a torn write could make it
                // unreadable.
                pg_sys::MarkBufferDirtyHint(buffer, true);
            }
            pg_sys::UnlockReleaseBuffer(buffer);
        }
        pg_sys::FreeAccessStrategy(strategy);
        end < all
    }
}

/// Fills the gap of a page with zeros; true if it held anything else.
///
/// # Safety
/// `page` is a whole page that no other process reads or writes.
unsafe fn fill_gap(page: pg_sys::Page) -> bool {
    // SAFETY: every page begins with this header.
    let header = unsafe { &*page.cast::<pg_sys::PageHeaderData>() };
    let (lower, upper) = (usize::from(header.pd_lower), usize::from(header.pd_upper));
    // A page that was never used has no gap; a damaged one is left as it is.
    if lower < size_of::<pg_sys::PageHeaderData>() || lower >= upper || upper > pg_sys::BLCKSZ as usize {
        return false;
    }
    // SAFETY: within the page.
    let gap = unsafe { std::slice::from_raw_parts_mut(page.cast::<u8>().add(lower), upper - lower) };
    let used = gap.iter().any(|byte| *byte != 0);
    if used {
        gap.fill(0);
    }
    used
}
