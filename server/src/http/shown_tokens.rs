//! Tokens that were shown to this process lately. A spent one ends here, before its request makes the server read or
//! validate anything (AAS-8); of several requests that show one token at the same time, one goes on and the others wait
//! until the database has decided about it. Only the database says that a token is spent (AAS-4): this memory may forget
//! at any time.

use std::{
    collections::HashMap,
    hash::{BuildHasher as _, RandomState},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use postern_protocol::token::Token;
use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard};

use crate::recent::Recent;

/// A token in this memory: a hash of key id and nonce under a secret of the process. Nobody can make two tokens with one
/// hash, and by chance two of 100,000 have one in one of 10^9 processes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TokenId(u64);

/// The fate of a token, as the database told it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// Its request is settled: it is spent, unless the endpoint was free.
    Settled,
    /// It is spent.
    Spent,
}

pub struct ShownTokens {
    secret: RandomState,
    memory: Mutex<Memory>,
}

struct Memory {
    /// The tokens of requests under way that are not settled. The request that holds a token's lock goes on.
    under_way: HashMap<TokenId, Arc<AsyncMutex<()>>>,
    settled: Recent<TokenId>,
    /// Apart from the settled ones, so that the tokens of honest clients do not push these out.
    spent: Recent<TokenId>,
}

impl ShownTokens {
    /// Remembers up to `capacity` spent tokens, and as many settled ones.
    pub fn new(capacity: usize) -> Self {
        let (settled, spent) = (Recent::new(capacity), Recent::new(capacity));
        let memory = Memory { under_way: HashMap::new(), settled, spent };
        Self { secret: RandomState::new(), memory: Mutex::new(memory) }
    }

    pub fn id(&self, token: &Token) -> TokenId {
        TokenId(self.secret.hash_one((token.token_key_id(), token.nonce())))
    }

    /// The fate of a token, as far as it is remembered.
    pub fn fate(&self, token: TokenId) -> Option<Fate> {
        let memory = self.memory();
        if memory.spent.contains(&token) {
            Some(Fate::Spent)
        } else {
            memory.settled.contains(&token).then_some(Fate::Settled)
        }
    }

    /// Waits until no other request with this token is under way.
    pub async fn turn(self: &Arc<Self>, token: TokenId) -> Turn {
        let lock = self.memory().under_way.entry(token).or_default().clone();
        // Made first: if nobody waits for the lock any more, it goes.
        let mut turn = Turn { shown: self.clone(), token, lock, guard: None };
        turn.guard = Some(turn.lock.clone().lock_owned().await);
        turn
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A token's turn, until it is dropped.
pub struct Turn {
    shown: Arc<ShownTokens>,
    token: TokenId,
    lock: Arc<AsyncMutex<()>>,
    guard: Option<OwnedMutexGuard<()>>,
}

impl Turn {
    /// The token's fate, now that it has its turn.
    pub fn fate(&self) -> Option<Fate> {
        self.shown.fate(self.token)
    }

    /// Ends the turn: the database decided.
    pub fn end(self, fate: Fate) {
        let mut memory = self.shown.memory();
        match fate {
            Fate::Settled => memory.settled.insert(self.token),
            Fate::Spent => memory.spent.insert(self.token),
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.guard = None;
        let mut memory = self.shown.memory();
        // The map's and this one: nobody else has it, and nobody gets it meanwhile.
        if Arc::strong_count(&self.lock) == 2 {
            memory.under_way.remove(&self.token);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    const TOKEN: TokenId = TokenId(7);

    #[tokio::test]
    async fn requests_with_one_token_take_turns_and_leave_nothing_behind() {
        let shown = Arc::new(ShownTokens::new(10));
        let first = shown.turn(TOKEN).await;
        assert!(timeout(Duration::from_millis(20), shown.turn(TOKEN)).await.is_err(), "it waits");
        let another = timeout(Duration::from_secs(5), shown.turn(TokenId(8))).await;
        drop(another.expect("another token has nothing to wait for"));
        let second = tokio::spawn({
            let shown = shown.clone();
            async move { shown.turn(TOKEN).await.fate() }
        });
        tokio::task::yield_now().await;
        first.end(Fate::Spent);
        assert_eq!(second.await.unwrap(), Some(Fate::Spent), "it learns what became of the first");
        assert!(shown.memory().under_way.is_empty());
    }

    #[tokio::test]
    async fn a_turn_that_nothing_came_of_leaves_the_token_as_it_was() {
        let shown = Arc::new(ShownTokens::new(10));
        drop(shown.turn(TOKEN).await);
        assert_eq!(shown.turn(TOKEN).await.fate(), None);
    }

    #[tokio::test]
    async fn the_memory_is_bounded_and_settled_tokens_push_out_no_spent_one() {
        let shown = Arc::new(ShownTokens::new(10));
        shown.turn(TOKEN).await.end(Fate::Spent);
        for token in 100..200 {
            shown.turn(TokenId(token)).await.end(Fate::Settled);
        }
        assert_eq!(shown.fate(TOKEN), Some(Fate::Spent));
        assert_eq!(shown.fate(TokenId(199)), Some(Fate::Settled));
        let kept = (100..200).filter(|token| shown.fate(TokenId(*token)).is_some()).count();
        assert!((5..=10).contains(&kept), "{kept}");
    }
}
