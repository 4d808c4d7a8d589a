//! From a directory to a client: by registering, opening, or linking.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use postern_protocol::{name::UserName, second_proof::RecoveryKey};

use super::handle::Client;
use crate::{
    account::{self, LinkGrant, LinkRequest},
    error::{Error, Result},
    options::Options,
    session::Session,
    setup,
    store::Store,
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
/// // A second device, in three steps.
/// let laptop = Client::builder("state/laptop").server("http://127.0.0.1:8008");
/// let request = laptop.request_link(alice.user())?;
/// let grant = alice.approve_link(&request).await?;
/// let laptop = laptop.complete_link(&grant).await?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct ClientBuilder {
    directory: PathBuf,
    options: Options,
}

impl Client {
    /// Starts with the directory in which the client keeps its state, or is to keep it.
    pub fn builder(directory: impl AsRef<Path>) -> ClientBuilder {
        ClientBuilder { directory: directory.as_ref().to_owned(), options: Options::default() }
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

    /// Registers a new user (AS-1) with this as the first device, or takes up a registration that
    /// was interrupted. `name` may leave out the server's domain.
    ///
    /// # Errors
    /// [`Error::NoServer`], [`Error::ClientExists`], [`Error::BadName`], `name-taken`,
    /// [`Error::Server`].
    pub async fn register(&self, name: &str) -> Result<Client> {
        let store = setup::register(&self.directory, self.named_server()?, name, &self.options).await?;
        self.client(store)
    }

    /// Begins the identity of a user anew who lost all devices (AS-8), with this as the first device, or takes up
    /// a reset that was interrupted. The devices that were lost are nothing to anybody from then on. Nothing that they
    /// had is here: no group, no contact, no message and no profile. Contacts and groups see a reset, and have to accept
    /// it. `name` may leave out the server's domain.
    ///
    /// # Errors
    /// [`Error::NoServer`], [`Error::ClientExists`], [`Error::BadName`], `wrong-proof`, also for a name that nobody
    /// has, `too-many-changes`, [`Error::Server`].
    pub async fn reset(&self, name: &str, recovery_key: &RecoveryKey) -> Result<Client> {
        let server = self.named_server()?;
        let store = account::reset(&self.directory, server, name, recovery_key, &self.options).await?;
        self.client(store)
    }

    /// Opens the client.
    ///
    /// # Errors
    /// [`Error::NoClient`], [`Error::NotReady`], [`Error::NewerState`].
    pub fn open(&self) -> Result<Client> {
        self.client(Arc::new(Store::open(&self.directory, &self.options)?))
    }

    /// Makes the keys of a new device of `user`, and the request to add it (AS-3): the first of
    /// three steps, offline. [`Client::approve_link`] is the second.
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
