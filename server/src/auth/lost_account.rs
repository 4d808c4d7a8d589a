//! An account whose clients are lost (AS-8), as both requests of a reset find it. They are open, since tokens are for
//! clients: the owner's proof is verified first, which is cheap, and wrong ones are counted and limited.

use postern_protocol::{
    PublicKey, Transcript,
    name::UserName,
    problem::ProblemType,
    second_proof::{Operation, SecondProof},
};

use super::{
    As,
    owner::{self, Owner, VerifiedProof},
};
use crate::{
    database::{SqlOutcome, outcome},
    http::{Failure, RateLimit, Request, SourceAddress},
};

/// The purpose for which network addresses are digested. It is another than that of registrations, which are counted
/// apart.
const SOURCE: &str = "AS reset source";
/// The verifier of no recovery key, so that a name that nobody has takes as long as one that somebody has.
const NOBODY: PublicKey = PublicKey::new([0; 32]);

outcome! {
    pub CountWrongResetOutcome: "auth.count_wrong_reset_outcome" {
        Counted = "counted",
        SourceLimited = "source_limited",
        ServerLimited = "server_limited",
    }
}

pub struct LostAccount {
    pub owner: Owner,
    source: SourceAddress,
    /// False for a name that nobody has.
    exists: bool,
    /// The number and the last transcript of the last incarnation that ended.
    pub ended: Option<(u32, Transcript)>,
    /// Limit of the first client's leaf.
    pub max_leaf_bytes: usize,
}

impl LostAccount {
    /// Finds the account that a request is about; one that nobody has takes as long.
    ///
    /// # Errors
    /// A database that does not answer.
    pub async fn find(auth: &As, request: &Request, name: &UserName) -> Result<Self, Failure> {
        let row = auth
            .home
            .database
            .query_one(
                "SELECT max_leaf_bytes, recovery_key, login, incarnation, transcript
                 FROM auth.find_lost_account($1)",
                &[&name.local()],
            )
            .await?;
        let ended = match row.get::<_, Option<&[u8]>>("transcript") {
            Some(transcript) => Some((
                u32::try_from(row.get::<_, i32>("incarnation")).map_err(Failure::fault)?,
                Transcript::try_from(transcript).map_err(Failure::fault)?,
            )),
            None => None,
        };
        let found = row.get::<_, Option<&[u8]>>("recovery_key").map(PublicKey::try_from);
        let recovery_key = found.transpose().map_err(Failure::fault)?;
        Ok(Self {
            source: request.source(),
            exists: recovery_key.is_some(),
            owner: Owner {
                user: name.clone(),
                recovery_key: recovery_key.unwrap_or(NOBODY),
                login: owner::login(&row)?,
            },
            ended,
            max_leaf_bytes: usize::try_from(row.get::<_, i32>("max_leaf_bytes")).map_err(Failure::fault)?,
        })
    }

    /// Verifies the owner's proof.
    ///
    /// # Errors
    /// `wrong-proof`, also for a name that nobody has: that takes the same work, and is counted in the same way;
    /// `too-many-changes` after too many of them in this hour.
    pub async fn prove(
        &self,
        auth: &As,
        proof: &SecondProof,
        operation: &Operation<'_>,
        client: PublicKey,
    ) -> Result<VerifiedProof, Failure> {
        let verified = match self.owner.verify(auth, proof, operation, client).await {
            // For some messages anybody can sign for the key that stands for nobody's, a point of small order.
            Ok(_) if !self.exists => Err(ProblemType::WrongProof.into()),
            verified => verified,
        };
        if let Err(Failure::Refused(_)) = &verified {
            self.count(auth).await?;
        }
        self.owner.counted(auth, verified).await
    }

    /// Counts a wrong proof for the network address that it came from.
    async fn count(&self, auth: &As) -> Result<(), Failure> {
        let sources = self.source.digests(|network| auth.home.master_key.digest(SOURCE, network));
        let sql = "SELECT outcome, allowance, resets_in FROM auth.count_wrong_reset($1)";
        let row = auth.home.database.query_one(sql, &[&sources]).await?;
        match CountWrongResetOutcome::of(&row)? {
            CountWrongResetOutcome::Counted => Ok(()),
            CountWrongResetOutcome::SourceLimited | CountWrongResetOutcome::ServerLimited => {
                Err(Failure::Limited(ProblemType::TooManyChanges.into(), RateLimit::used_up(&row)))
            }
        }
    }
}
