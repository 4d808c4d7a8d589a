//! A group as everybody sees it to whom its server shows it.

use openmls::prelude::{
    MlsMessageBodyIn, MlsMessageIn, OpenMlsProvider as _, ProposalStore, PublicGroup, RatchetTreeIn,
};
use openmls_rust_crypto::OpenMlsRustCrypto;
use postern_client::judge_message;
use postern_protocol::{GroupInfo, MlsMessage, RatchetTree};
use tls_codec::Deserialize as _;

/// The public state of a group of the DS, in which nothing waits, verified as whoever joins verifies it.
pub struct Onlooker {
    group: PublicGroup,
    provider: OpenMlsRustCrypto,
}

impl Onlooker {
    pub fn of(group_info: &GroupInfo, ratchet_tree: &RatchetTree) -> Self {
        let info = MlsMessageIn::tls_deserialize_exact(group_info.as_bytes()).expect("it is an MLSMessage");
        let MlsMessageBodyIn::GroupInfo(info) = info.extract() else { panic!("it is a GroupInfo") };
        let tree = RatchetTreeIn::tls_deserialize_exact(ratchet_tree.as_bytes()).expect("it is a tree");
        let provider = OpenMlsRustCrypto::default();
        let opened = PublicGroup::from_external(
            provider.crypto(),
            provider.storage(),
            tree,
            info,
            ProposalStore::new(),
        );
        let (group, _) = opened.expect("whoever joins finds the group valid");
        Self { group, provider }
    }

    /// Judges a commit or a proposal that the server accepted by the rules of members' clients. What only members can
    /// tell is not looked at.
    ///
    /// # Errors
    /// The reason why members would refuse it.
    pub fn judge(&self, message: &MlsMessage) -> Result<(), String> {
        let parsed = MlsMessageIn::tls_deserialize_exact(message.as_bytes()).map_err(|it| it.to_string())?;
        let MlsMessageBodyIn::PublicMessage(public) = parsed.extract() else { return Ok(()) };
        let processed = self.group.process_message(self.provider.crypto(), public);
        let processed = processed.map_err(|it| it.to_string())?;
        judge_message(&self.group, std::iter::empty(), &processed).map_err(str::to_owned)
    }
}
