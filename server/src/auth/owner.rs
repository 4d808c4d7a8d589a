//! The owner of an account, who shows a second proof for what cannot be undone (AS-8, AS-9). A proof is verified before
//! anything is counted: those of others never keep the owner out.

use postern_protocol::{
    PublicKey,
    admission::IdToken,
    name::UserName,
    problem::{Problem, ProblemType},
    second_proof::{Operation, SecondProof},
};
use tokio_postgres::Row;

use super::{As, OidcError, Subject, identity, oidc::Login};
use crate::http::Failure;

/// The answer to an ID token of another's, which is the same for a name that nobody has.
const ANOTHERS: &str = "the ID token is not of the login that this account was registered with, or this server takes the recovery key only";

pub struct Owner {
    pub user: UserName,
    /// Verifier of the recovery key's proofs.
    pub recovery_key: PublicKey,
    /// The login whose ID tokens are proofs; none where the account has none, or the operator's policy is another.
    pub login: Option<Subject>,
}

/// A second proof that was verified, as the database takes it: `auth.verified_proof`.
pub struct VerifiedProof {
    pub recovery_key: Option<Vec<u8>>,
    pub login: Option<Vec<u8>>,
    /// Digest of the ID token and what it proves.
    pub id_token: Option<Vec<u8>>,
    /// Hour (hours since 1970) in which the ID token is good no more.
    pub id_token_hour: Option<i32>,
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
                "SELECT name, recovery_key, login FROM auth.load_account($1)",
                &[&client.as_bytes().as_slice()],
            )
            .await?
            .ok_or(ProblemType::NotAllowed)?;
        let recovery_key =
            PublicKey::try_from(row.get::<_, &[u8]>("recovery_key")).map_err(Failure::fault)?;
        Ok(Self { user: identity::user_name(&row, &auth.home.domain)?, recovery_key, login: login(&row)? })
    }

    /// Verifies the owner's proof for an operation that `client` asks for.
    ///
    /// # Errors
    /// `wrong-proof`, which is counted; a provider that does not answer.
    pub async fn prove(
        &self,
        auth: &As,
        proof: &SecondProof,
        operation: &Operation<'_>,
        client: PublicKey,
    ) -> Result<VerifiedProof, Failure> {
        self.counted(auth, self.verify(auth, proof, operation, client).await).await
    }

    /// Verifies the owner's proof, and counts nothing.
    ///
    /// # Errors
    /// `wrong-proof`; a provider that does not answer.
    pub async fn verify(
        &self,
        auth: &As,
        proof: &SecondProof,
        operation: &Operation<'_>,
        client: PublicKey,
    ) -> Result<VerifiedProof, Failure> {
        match proof {
            SecondProof::Recovery(signature) => {
                let verified = operation.verify_recovery(self.recovery_key, &self.user, signature);
                verified.map_err(|_| ProblemType::WrongProof)?;
                Ok(VerifiedProof::recovery(self.recovery_key))
            }
            SecondProof::IdToken(token) => {
                match self.log_in(auth, token, &operation.nonce(&self.user, &client)).await {
                    Ok(login) => Ok(VerifiedProof::id_token(&login, &operation.use_of(token))),
                    Err(OidcError::Invalid(reason)) => {
                        Err(Problem::with_detail(ProblemType::WrongProof, reason).into())
                    }
                    Err(unavailable) => Err(unavailable.into()),
                }
            }
        }
    }

    /// Counts a wrong proof, whether anybody has the name or not.
    ///
    /// # Errors
    /// Those of the verification, or a database that does not answer.
    pub async fn counted(
        &self,
        auth: &As,
        verified: Result<VerifiedProof, Failure>,
    ) -> Result<VerifiedProof, Failure> {
        if let Err(Failure::Refused(_)) = &verified {
            let sql = "SELECT auth.count_wrong_proof($1)";
            auth.home.database.query_one(sql, &[&self.user.local()]).await?;
        }
        verified
    }

    async fn log_in(&self, auth: &As, token: &IdToken, nonce: &str) -> Result<Login, OidcError> {
        let oidc = auth.oidc.as_deref();
        let oidc = oidc.ok_or(OidcError::Invalid("this server has no identity provider"))?;
        let login = oidc.verify_recent(token, nonce).await?;
        if self.login == Some(login.subject) { Ok(login) } else { Err(OidcError::Invalid(ANOTHERS)) }
    }
}

impl VerifiedProof {
    fn recovery(recovery_key: PublicKey) -> Self {
        let recovery_key = Some(recovery_key.as_bytes().to_vec());
        Self { recovery_key, login: None, id_token: None, id_token_hour: None }
    }

    fn id_token(login: &Login, used: &[u8; 32]) -> Self {
        Self {
            recovery_key: None,
            login: Some(login.subject.as_bytes().to_vec()),
            id_token: Some(used.to_vec()),
            // The first hour that begins after its end.
            id_token_hour: Some(i32::try_from(login.expires / 3600 + 1).unwrap_or(i32::MAX)),
        }
    }
}

/// The login in the column `login` of a row.
///
/// # Errors
/// A fault: no digest.
pub fn login(row: &Row) -> Result<Option<Subject>, Failure> {
    row.get::<_, Option<&[u8]>>("login").map(Subject::try_from).transpose().map_err(Failure::fault)
}
