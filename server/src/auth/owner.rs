//! The owner of an account, who shows a second proof for what cannot be undone (AS-8, AS-9). A proof is verified before
//! anything is counted: those of others never keep the owner out.

use postern_protocol::{
    PublicKey,
    name::UserName,
    problem::ProblemType,
    second_proof::{Operation, SecondProof},
};

use super::{As, identity};
use crate::http::Failure;

pub struct Owner {
    pub user: UserName,
    /// Verifier of the second proof.
    pub recovery_key: PublicKey,
}

impl Owner {
    /// The owner of the account that a confirmed client belongs to.
    ///
    /// # Errors
    /// `not-allowed` for a key that is no such client's.
    pub async fn of_client(auth: &As, client: PublicKey) -> Result<Self, Failure> {
        let row = auth
            .home
            .database
            .query_opt(
                "SELECT name, recovery_key FROM auth.load_account($1)",
                &[&client.as_bytes().as_slice()],
            )
            .await?
            .ok_or(ProblemType::NotAllowed)?;
        let recovery_key =
            PublicKey::try_from(row.get::<_, &[u8]>("recovery_key")).map_err(Failure::fault)?;
        Ok(Self { user: identity::user_name(&row, &auth.home.domain)?, recovery_key })
    }

    /// Verifies the owner's proof for an operation.
    ///
    /// # Errors
    /// `wrong-proof`, which is counted.
    pub async fn prove(
        &self,
        auth: &As,
        proof: &SecondProof,
        operation: &Operation<'_>,
    ) -> Result<(), Failure> {
        if self.is_proven(proof, operation) { Ok(()) } else { Err(self.refuse(auth).await?) }
    }

    pub fn is_proven(&self, proof: &SecondProof, operation: &Operation<'_>) -> bool {
        proof.verify(self.recovery_key, &self.user, operation).is_ok()
    }

    /// Counts a wrong proof, whether anybody has the name or not.
    pub async fn refuse(&self, auth: &As) -> Result<Failure, Failure> {
        let sql = "SELECT auth.count_wrong_proof($1)";
        auth.home.database.query_one(sql, &[&self.user.local()]).await?;
        Ok(ProblemType::WrongProof.into())
    }

    /// The verifier as the database compares it.
    pub fn verifier(&self) -> &[u8] {
        self.recovery_key.as_bytes()
    }
}
