//! The ways into a group: founding it, a KeyPackage and a Welcome, and an external commit.

use openmls::prelude::*;
use postern_protocol::{
    MlsMessage, RatchetTree as RatchetTreeBytes, Welcome as WelcomeBytes,
    ds::{CurrentGroup, MAX_PAST_EPOCHS},
    key::SigningKey,
    mls::to_join,
};
use tls_codec::Deserialize as _;

use super::{Ed25519, Made, Party, message, parse};

impl Party {
    /// Founds a group.
    pub fn found(&mut self, id: &[u8], context: Extensions<GroupContext>) {
        let group = MlsGroup::builder()
            .with_group_id(GroupId::from_slice(id))
            .ciphersuite(self.suite)
            .with_wire_format_policy(MIXED_PLAINTEXT_WIRE_FORMAT_POLICY)
            .use_ratchet_tree_extension(true)
            .max_past_epochs(MAX_PAST_EPOCHS)
            .with_capabilities(self.capabilities())
            .lifetime(self.lifetime)
            .with_group_context_extensions(context)
            .with_leaf_node_extensions(self.leaf.clone())
            .expect("the extensions are a leaf's")
            .build(&self.provider, &Ed25519(&self.key), self.credential(self.identity.clone()))
            .expect("a group can be founded");
        self.group = Some(group);
    }

    pub fn key_package(&self) -> KeyPackage {
        let bundle = KeyPackage::builder()
            .key_package_lifetime(self.lifetime)
            .leaf_node_capabilities(self.capabilities())
            .leaf_node_extensions(self.leaf.clone())
            .build(self.suite, &self.provider, &Ed25519(&self.key), self.credential(self.identity.clone()))
            .expect("a KeyPackage can be made");
        bundle.key_package().clone()
    }

    /// Makes a KeyPackage, as an `MLSMessage`.
    pub fn key_package_message(&self) -> MlsMessage {
        message(&MlsMessageOut::from(self.key_package()))
    }

    /// Makes a KeyPackage that says that it is of last resort, as an `MLSMessage`.
    pub fn last_resort_message(&self) -> MlsMessage {
        let bundle = KeyPackage::builder()
            .key_package_lifetime(self.lifetime)
            .leaf_node_capabilities(self.capabilities())
            .leaf_node_extensions(self.leaf.clone())
            .mark_as_last_resort()
            .build(self.suite, &self.provider, &Ed25519(&self.key), self.credential(self.identity.clone()))
            .expect("a KeyPackage can be made");
        message(&MlsMessageOut::from(bundle.key_package().clone()))
    }

    /// Opens the KeyPackage of another, as it was fetched.
    pub fn open_key_package(&self, fetched: &MlsMessage) -> KeyPackage {
        let MlsMessageBodyIn::KeyPackage(key_package) = parse(fetched) else { panic!("it is a KeyPackage") };
        key_package.validate(self.provider.crypto(), ProtocolVersion::Mls10).expect("it is valid")
    }

    pub fn join(&mut self, welcome: &WelcomeBytes, tree: &RatchetTreeBytes) {
        let staged =
            StagedWelcome::build_from_welcome(&self.provider, &join_config(), parse_welcome(welcome))
                .expect("the Welcome is for us")
                .with_ratchet_tree(parse_tree(tree))
                .build();
        self.group =
            Some(staged.expect("the tree is the Welcome's").into_group(&self.provider).expect("it is valid"));
    }

    /// Makes the commit by which a stranger with a stolen GroupInfo would enter.
    pub fn external_commit(&mut self, member: &Self) -> MlsMessage {
        let (group_info, ratchet_tree) = (member.group_info(), member.ratchet_tree());
        self.join_externally(
            &CurrentGroup { group_info, ratchet_tree, proposals: Vec::new(), attributes: Vec::new() },
            None,
        )
        .commit
    }

    /// Joins, or comes back, by external commit, for which a user's key may vouch; [`Party::merge`] it once it was
    /// accepted.
    pub fn join_externally(&mut self, current: &CurrentGroup, voucher: Option<&SigningKey>) -> Made {
        let info = MlsMessage::new(current.group_info.as_bytes().to_vec());
        let MlsMessageBodyIn::GroupInfo(info) = parse(&info) else { panic!("it is a GroupInfo") };
        let proposal = |message| match parse(message) {
            MlsMessageBodyIn::PublicMessage(proposal) => proposal,
            _ => panic!("proposals are public"),
        };
        let parameters = LeafNodeParameters::builder()
            .with_capabilities(self.capabilities())
            .with_extensions(self.leaf.clone())
            .build();
        let signature = voucher.map(|user| {
            // Parties of EIDs have no group ids of ours, and nobody who vouches.
            let id = postern_protocol::ds::GroupId::from_mls(info.group_id().as_slice()).expect("it is ours");
            user.sign(&to_join(&id, info.epoch().as_u64(), &self.public_key())).into_bytes()
        });
        let (group, bundle) = MlsGroup::external_commit_builder()
            .with_aad(signature.unwrap_or_default())
            .with_ratchet_tree(parse_tree(&current.ratchet_tree))
            .with_config(join_config())
            .with_proposals(current.proposals.iter().map(proposal).collect())
            .build_group(&self.provider, info, self.credential(self.identity.clone()))
            .expect("the group can be entered")
            .leaf_node_parameters(parameters)
            .load_psks(self.provider.storage())
            .expect("there are none")
            .create_group_info(true)
            .use_ratchet_tree_extension(false)
            .build(self.provider.rand(), self.provider.crypto(), &Ed25519(&self.key), |_| true)
            .expect("the commit can be made")
            .finalize(&self.provider)
            .expect("the commit can be kept");
        self.entered = Some(group);
        Made::of(bundle)
    }
}

fn join_config() -> MlsGroupJoinConfig {
    MlsGroupJoinConfig::builder()
        .wire_format_policy(MIXED_PLAINTEXT_WIRE_FORMAT_POLICY)
        .max_past_epochs(MAX_PAST_EPOCHS)
        .build()
}

fn parse_tree(tree: &RatchetTreeBytes) -> RatchetTreeIn {
    RatchetTreeIn::tls_deserialize_exact(tree.as_bytes()).expect("it is a tree")
}

fn parse_welcome(welcome: &WelcomeBytes) -> Welcome {
    match parse(&MlsMessage::new(welcome.as_bytes().to_vec())) {
        MlsMessageBodyIn::Welcome(welcome) => welcome,
        _ => panic!("it is no Welcome"),
    }
}
