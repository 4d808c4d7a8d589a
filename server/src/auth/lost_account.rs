//! An account whose clients are lost (AS-8), as both requests of a reset find it. They are open, since tokens are for
//! clients. So, as at a registration, what is cheap comes first: size, form, and one SQL call that counts the attempt.

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
    http::{Failure, RateLimit, Request},
};

/// The purpose for which network addresses are digested. It is another than that of registrations, which are counted
/// apart.
const SOURCE: &str = "AS reset source";
/// The verifier of no recovery key, so that a name that nobody has takes as long as one that somebody has.
const NOBODY: PublicKey = PublicKey::new([0; 32]);

outcome! {
    pub AdmitResetOutcome: "auth.admit_reset_outcome" {
        Admitted = "admitted",
        SourceLimited = "source_limited",
        ServerLimited = "server_limited",
    }
}

pub struct LostAccount {
    pub owner: Owner,
    /// False for a name that nobody has.
    exists: bool,
    /// The number and the last transcript of the last incarnation that ended.
    pub ended: Option<(u32, Transcript)>,
    /// Limit of the first client's leaf.
    pub max_leaf_bytes: usize,
}

impl LostAccount {
    /// Counts the attempt, and finds the account.
    ///
    /// # Errors
    /// `too-many-changes`: too many attempts in this hour.
    pub async fn find(auth: &As, request: &Request, name: &UserName) -> Result<Self, Failure> {
        let address = request.source().address().to_string();
        let source = auth.home.master_key.digest(SOURCE, address.as_bytes());
        let row = auth
            .home
            .database
            .query_one(
                "SELECT outcome, allowance, resets_in, max_leaf_bytes, recovery_key, login, incarnation, transcript
                 FROM auth.admit_reset($1, $2)",
                &[&source.as_slice(), &name.local()],
            )
            .await?;
        match AdmitResetOutcome::of(&row)? {
            AdmitResetOutcome::Admitted => {}
            AdmitResetOutcome::SourceLimited | AdmitResetOutcome::ServerLimited => {
                return Err(Failure::Limited(ProblemType::TooManyChanges.into(), RateLimit::used_up(&row)));
            }
        }
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
    /// `wrong-proof`, also for a name that nobody has: that takes the same work, and is counted in the same way.
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
        self.owner.counted(auth, verified).await
    }
}
