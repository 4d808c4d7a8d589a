//! From a directory to a client: by registering, opening, or linking.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use postern_protocol::{
    admission::{Admission, RegistrationTerms},
    name::{Domain, UserName},
};

use super::handle::Client;
use crate::{
    account::{self, LinkGrant, LinkRequest, OwnerProof},
    error::{Error, Result},
    link::{self, LinkCode},
    options::Options,
    session::Session,
    setup,
    store::{self, Passphrase, Store},
};

/// Makes or opens the client of a directory.
///
/// ```no_run
/// # async fn example() -> postern_client::Result<()> {
/// use postern_client::Client;
///
/// let alice = Client::builder("state/alice").server("http://127.0.0.1:8008").register("alice").await?;
/// let alice = Client::builder("state/alice").open()?;
///
/// // A second device. A person reads the code on one, and types it on the other.
/// let offer = alice.offer_link().await?;
/// let code = offer.code().expect("no device has come yet");
/// let laptop = Client::builder("state/laptop").server("http://127.0.0.1:8008");
/// let (added, laptop) = tokio::join!(offer.finish(), laptop.link(&code));
/// assert_eq!(added?, laptop?.client_key());
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct ClientBuilder {
    directory: PathBuf,
    options: Options,
    admission: Admission,
}

impl Client {
    /// Starts with the directory in which the client keeps its state, or is to keep it.
    pub fn builder(directory: impl AsRef<Path>) -> ClientBuilder {
        ClientBuilder {
            directory: directory.as_ref().to_owned(),
            options: Options::default(),
            admission: Admission::Open,
        }
    }

    /// Registers a new user with default options: see [`ClientBuilder::register`].
    ///
    /// # Errors
    /// As [`ClientBuilder::register`].
    pub async fn register(directory: &Path, server: &str, name: &str) -> Result<Self> {
        Self::builder(directory).server(server).register(name).await
    }

    /// Opens the client of a directory with default options: see [`ClientBuilder::open`].
    ///
    /// # Errors
    /// As [`ClientBuilder::open`].
    pub fn open(directory: &Path) -> Result<Self> {
        Self::builder(directory).open()
    }
}

impl ClientBuilder {
    /// The server's URL (`https://chat.example.org`). Needed to register or to request a link;
    /// later, only if the server moved.
    #[must_use]
    pub fn server(mut self, server: impl Into<String>) -> Self {
        self.options.server = Some(server.into());
        self
    }

    /// Hides this client's address from its own homeserver: a neighbour's relays what it asks (FED-7). That one has to deal
    /// with this client's domain, and sees the address and sizes, and nothing else.
    #[must_use]
    pub fn relay(mut self, domain: Domain) -> Self {
        self.options.relay = Some(domain);
        self
    }

    /// Whether to accept contact requests of anyone that is not blocked, as a bot does. Usually a person decides:
    /// [`Client::contact_requests`].
    #[must_use]
    pub fn accept_contacts(mut self, accept: bool) -> Self {
        self.options.accept_contacts = accept;
        self
    }

    /// All options at once. A server that was named stays unless these name another.
    #[must_use]
    pub fn options(mut self, options: Options) -> Self {
        let server = options.server.or(self.options.server);
        self.options = Options { server, ..options };
        self
    }

    /// Keeps so many messages and events of each group to be read again ([`Group::history`](crate::Group::history)):
    /// 10,000, unless this says something else; 0: none.
    #[must_use]
    pub fn keep_history(mut self, number: u64) -> Self {
        self.options.history = number;
        self
    }

    /// Opens, or makes, state that is encrypted under a passphrase.
    #[must_use]
    pub fn passphrase(mut self, passphrase: Passphrase) -> Self {
        self.options.passphrase = Some(passphrase);
        self
    }

    /// Whether the directory holds state that is encrypted; `None` if it holds none.
    ///
    /// # Errors
    /// [`Error::Directory`].
    pub fn is_encrypted(&self) -> Result<Option<bool>> {
        store::is_encrypted(&self.directory)
    }

    /// Encrypts the state under another passphrase, or under none from now on. [`Self::passphrase`] is the present one.
    ///
    /// # Errors
    /// [`Error::NoClient`], [`Error::InUse`] while a process has it open, [`Error::PassphraseNeeded`],
    /// [`Error::WrongPassphrase`], [`Error::NotEncrypted`].
    pub fn change_passphrase(&self, passphrase: Option<&Passphrase>) -> Result<()> {
        store::reencrypt(&self.directory, &self.options, passphrase)
    }

    /// The invite or ID token that a registration brings, where the server does not let everybody in.
    #[must_use]
    pub fn admission(mut self, admission: Admission) -> Self {
        self.admission = admission;
        self
    }

    /// The proof that a registration at the server needs.
    ///
    /// # Errors
    /// [`Error::NoServer`], [`Error::Server`].
    pub async fn registration_terms(&self) -> Result<RegistrationTerms> {
        setup::registration_terms(self.named_server()?).await
    }

    /// The nonce that the ID token of a registration has to have, made for this device's key: which is
    /// made if there is none, and kept for [`Self::register`] with the same name.
    ///
    /// # Errors
    /// [`Error::NoServer`], [`Error::ClientExists`], [`Error::BadName`], [`Error::Server`].
    pub async fn registration_nonce(&self, name: &str) -> Result<String> {
        setup::registration_nonce(&self.directory, self.named_server()?, name, &self.options).await
    }

    /// Registers a new user (AS-1) with this as the first device, or takes up a registration that
    /// was interrupted. `name` may leave out the server's domain, and is taken in its one form: Alice
    /// becomes alice.
    ///
    /// # Errors
    /// [`Error::NoServer`], [`Error::ClientExists`], [`Error::BadName`], `name-taken`, `not-admitted`,
    /// `account-exists`, [`Error::Server`].
    pub async fn register(&self, name: &str) -> Result<Client> {
        let (server, admission) = (self.named_server()?, self.admission.clone());
        let store = setup::register(&self.directory, server, name, admission, &self.options).await?;
        self.client(store)
    }

    /// The nonce that the ID token of a reset has to have ([`OwnerProof::IdToken`]), made for this device's key: which is
    /// made if there is none, and kept for [`Self::reset`] with the same name.
    ///
    /// # Errors
    /// [`Error::NoServer`], [`Error::ClientExists`], [`Error::BadName`], [`Error::Server`].
    pub async fn reset_nonce(&self, name: &str) -> Result<String> {
        account::reset_nonce(&self.directory, self.named_server()?, name, &self.options).await
    }

    /// Begins the identity of a user anew who lost all devices (AS-8), with this as the first device, or takes up
    /// a reset that was interrupted. The devices that were lost are nothing to anybody from then on. Nothing that they
    /// had is here: no group, no contact, no message and no profile. Contacts and groups see a reset, and have to accept
    /// it. `name` may leave out the server's domain.
    ///
    /// # Errors
    /// [`Error::NoServer`], [`Error::ClientExists`], [`Error::BadName`], `wrong-proof`, also for a name that nobody
    /// has, `too-many-changes`, [`Error::Server`].
    pub async fn reset(&self, name: &str, proof: impl Into<OwnerProof<'_>>) -> Result<Client> {
        let server = self.named_server()?;
        let store = account::reset(&self.directory, server, name, proof.into(), &self.options).await?;
        self.client(store)
    }

    /// Opens the client.
    ///
    /// # Errors
    /// [`Error::NoClient`], [`Error::NotReady`], [`Error::NewerState`], [`Error::PassphraseNeeded`],
    /// [`Error::WrongPassphrase`], [`Error::NotEncrypted`].
    pub fn open(&self) -> Result<Client> {
        self.client(Arc::new(Store::open(&self.directory, &self.options)?))
    }

    /// Makes this a new device of the user at whose other device the code is shown (AS-7), or goes on with a link that was
    /// interrupted. [`Client::offer_link`] is the other side.
    ///
    /// # Errors
    /// [`Error::NoServer`], [`Error::ClientExists`], [`Error::Link`], [`Error::Server`]. After a passing error the same
    /// code goes on, if the two had agreed by then; else it is used up.
    pub async fn link(&self, code: &LinkCode) -> Result<Client> {
        let server = self.options.server.as_deref().or(code.server()).ok_or(Error::NoServer)?;
        let store = link::link(&self.directory, server, code, &self.options).await?;
        self.client(store)
    }

    /// Makes the keys of a new device of `user`, and the request to add it (AS-3), where the two cannot meet at the
    /// server: the first of three steps, offline. [`Client::approve_link`] is the second.
    ///
    /// # Errors
    /// [`Error::NoServer`], [`Error::ClientExists`].
    pub fn request_link(&self, user: &UserName) -> Result<LinkRequest> {
        setup::request_link(&self.directory, self.named_server()?, user, &self.options)
    }

    /// Finishes a new device: the third step.
    ///
    /// # Errors
    /// [`Error::NoClient`] before the first step, [`Error::BadBlob`] for a grant that is damaged or
    /// another device's, [`Error::Server`].
    pub async fn complete_link(&self, grant: &LinkGrant) -> Result<Client> {
        let store = setup::complete_link(&self.directory, grant, &self.options).await?;
        self.client(store)
    }

    fn named_server(&self) -> Result<&str> {
        self.options.server.as_deref().ok_or(Error::NoServer)
    }

    fn client(&self, store: Arc<Store>) -> Result<Client> {
        Ok(Client { session: Arc::new(Session::open(store, self.options.clone())?) })
    }
}
