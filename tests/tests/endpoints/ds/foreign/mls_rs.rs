//! `mls-rs`.

use std::{convert::Infallible, time::Duration};

use ::mls_rs::{
    CipherSuite, Client, ExtensionList, Group, IdentityProvider, MlsMessage,
    client_builder::{MlsConfig, PaddingMode},
    extension::ExtensionType,
    group::{CommitEffect, ExportedTree, Member, ReceivedMessage, proposal::ProposalType},
    identity::{CredentialType, SigningIdentity, basic::BasicCredential},
    mls_rs_codec::MlsDecode as _,
    mls_rules::{CommitOptions, DefaultMlsRules, EncryptionOptions},
    time::MlsTime,
};
use mls_rs_core::identity::MemberValidationContext;
use mls_rs_crypto_rustcrypto::RustCryptoProvider;
use openmls::prelude::{Extensions, GroupContext};
use postern_protocol::{
    GroupInfo, MlsMessage as MlsMessageBytes, PublicKey, RatchetTree, Welcome,
    ds::{CurrentGroup, GroupId},
    mls::{DELIVERY_ADDRESS, GROUP_POLICY, USER_KEY},
};
use postern_tests_kit::Made;
use tls_codec::Serialize as _;

use super::{Change, Leaf, Proposal, Side, View};

const SELF_REMOVE: u16 = 10;

struct MlsRs<C: MlsConfig> {
    leaf: Leaf,
    client: Client<C>,
    group: Option<Group<C>>,
    /// The group as [`Side::join_externally`] enters it.
    entered: Option<Group<C>>,
}

pub fn member(leaf: &Leaf) -> Box<dyn Side> {
    Box::new(MlsRs { leaf: leaf.clone(), client: client(leaf), group: None, entered: None })
}

/// Founds a group.
pub fn founder(
    leaf: &Leaf,
    id: &GroupId,
    context: &Extensions<GroupContext>,
) -> (Box<dyn Side>, GroupInfo, RatchetTree) {
    let client = client(leaf);
    let (context, own) = (extensions(context), extensions(&leaf.extensions()));
    let group = client.create_group_with_id(id.to_mls(), context, own, None);
    let group = group.expect("a group can be founded");
    let info = group.group_info_message_allowing_ext_commit(false).expect("it can be exported");
    let tree = group.export_tree().to_bytes().expect("it serialises");
    let founder = MlsRs { leaf: leaf.clone(), client, group: Some(group), entered: None };
    (Box::new(founder), GroupInfo::new(bytes(&info)), RatchetTree::new(tree))
}

fn client(leaf: &Leaf) -> Client<impl MlsConfig + use<>> {
    let rules = DefaultMlsRules::new()
        .with_commit_options(
            CommitOptions::new().with_allow_external_commit(true).with_ratchet_tree_extension(false),
        )
        .with_encryption_options(EncryptionOptions::new(false, PaddingMode::None));
    let credential = BasicCredential::new(leaf.pseudonym.0.to_vec()).into_credential();
    let public = leaf.key.public_key();
    let identity = SigningIdentity::new(credential, public.as_bytes().to_vec().into());
    let secret = [leaf.key.seed().as_slice(), public.as_bytes()].concat();
    Client::builder()
        .identity_provider(Clients)
        .crypto_provider(RustCryptoProvider::default())
        .mls_rules(rules)
        .extension_types([GROUP_POLICY, DELIVERY_ADDRESS, USER_KEY].map(ExtensionType::new))
        .custom_proposal_type(ProposalType::new(SELF_REMOVE))
        .key_package_lifetime(Duration::from_secs(60 * 24 * 60 * 60))
        .signing_identity(identity, secret.into(), CipherSuite::CURVE25519_AES128)
        .build()
}

impl<C: MlsConfig> MlsRs<C> {
    fn group(&mut self) -> &mut Group<C> {
        self.group.as_mut().expect("a member has a group")
    }
}

impl<C: MlsConfig> Side for MlsRs<C> {
    fn key_package(&mut self) -> MlsMessageBytes {
        let made = self.client.generate_key_package_message(
            ExtensionList::new(),
            extensions(&self.leaf.extensions()),
            Some(MlsTime::now()),
        );
        MlsMessageBytes::new(bytes(&made.expect("a KeyPackage can be made")))
    }

    fn join(&mut self, welcome: &Welcome, tree: &RatchetTree) {
        let (welcome, tree) = (parse(welcome.as_bytes()), parse_tree(tree));
        let (group, _) = self.client.join_group(Some(tree), &welcome, None).expect("the Welcome is for us");
        self.group = Some(group);
    }

    fn join_externally(&mut self, current: &CurrentGroup, voucher: Option<Vec<u8>>) -> Made {
        let tree = parse_tree(&current.ratchet_tree);
        let own = self.leaf.key.public_key();
        let before = tree.roster().members_iter().find(|member| of(member) == own).map(|member| member.index);
        let mut builder = self
            .client
            .external_commit_builder()
            .expect("the client has a key")
            .with_leaf_node_extensions(extensions(&self.leaf.extensions()))
            .with_authenticated_data(voucher.unwrap_or_default())
            .with_tree_data(tree);
        if let Some(leaf) = before {
            builder = builder.with_removal(leaf);
        }
        let (group, commit) =
            builder.build(parse(current.group_info.as_bytes())).expect("the group can be entered");
        let info = group.group_info_message_allowing_ext_commit(false).expect("it can be exported");
        self.entered = Some(group);
        Made {
            commit: MlsMessageBytes::new(bytes(&commit)),
            group_info: Some(GroupInfo::new(bytes(&info))),
            welcome: None,
        }
    }

    fn commit(&mut self, change: &Change) -> Made {
        let roster = self.group().roster();
        let leaf = |key: &PublicKey| {
            let mut members = roster.members_iter();
            members.find(|member| of(member) == *key).expect("it is a member").index
        };
        let removed: Vec<u32> = change.remove.iter().map(leaf).collect();
        let mut builder = self.group().commit_builder();
        for key_package in &change.add {
            builder = builder.add_member(parse(key_package.as_bytes())).expect("it is a KeyPackage");
        }
        for leaf in removed {
            builder = builder.remove_member(leaf).expect("it is a leaf");
        }
        if let Some(context) = &change.context {
            builder =
                builder.set_group_context_ext(extensions(context)).expect("the extensions are a context's");
        }
        let made = builder.build().expect("the commit can be made");
        assert!(
            made.unused_proposals
                .iter()
                .all(|unused| unused.proposal.proposal_type() == ProposalType::UPDATE)
        );
        let welcome = made.welcome_messages.first().map(|welcome| Welcome::new(bytes(welcome)));
        let group_info = made.external_commit_group_info.as_ref().map(|info| GroupInfo::new(bytes(info)));
        Made { commit: MlsMessageBytes::new(bytes(&made.commit_message)), group_info, welcome }
    }

    fn merge(&mut self) {
        if let Some(entered) = self.entered.take() {
            self.group = Some(entered);
            return;
        }
        self.group().apply_pending_commit().expect("there is one");
    }

    fn propose(&mut self, proposal: Proposal) -> Option<MlsMessageBytes> {
        let message = match proposal {
            Proposal::Update => self.group().propose_update(Vec::new()),
        };
        Some(MlsMessageBytes::new(bytes(&message.expect("it can be proposed"))))
    }

    fn say(&mut self, text: &[u8]) -> MlsMessageBytes {
        let said = self.group().encrypt_application_message(text, Vec::new());
        MlsMessageBytes::new(bytes(&said.expect("a member can speak")))
    }

    fn receive(&mut self, message: &MlsMessageBytes) -> Option<Vec<u8>> {
        let received = self.group().process_incoming_message(parse(message.as_bytes()));
        match received.expect("what the server accepts is valid") {
            ReceivedMessage::ApplicationMessage(message) => Some(message.data().to_vec()),
            ReceivedMessage::Commit(commit) => {
                if matches!(commit.effect, CommitEffect::Removed { .. }) {
                    self.group = None;
                }
                None
            }
            ReceivedMessage::Proposal(_) => None,
            other => panic!("it is nothing that a member sends: {other:?}"),
        }
    }

    fn view(&mut self) -> Option<View> {
        let group = self.group.as_ref()?;
        let members = group.roster().members_iter().map(|member| of(&member)).collect();
        let authenticator = group.epoch_authenticator().expect("every epoch has one");
        Some(View { epoch_authenticator: authenticator.as_bytes().to_vec(), members })
    }
}

fn of(member: &Member) -> PublicKey {
    let key = member.signing_identity.signature_key.as_bytes();
    PublicKey::try_from(key).expect("keys are Ed25519")
}

fn parse(bytes: &[u8]) -> MlsMessage {
    MlsMessage::from_bytes(bytes).expect("it is an MLSMessage")
}

fn parse_tree(tree: &RatchetTree) -> ExportedTree<'static> {
    ExportedTree::from_bytes(tree.as_bytes()).expect("it is a tree")
}

fn bytes(message: &MlsMessage) -> Vec<u8> {
    message.to_bytes().expect("it serialises")
}

fn extensions<T>(extensions: &Extensions<T>) -> ExtensionList
where
    Extensions<T>: tls_codec::Serialize,
{
    let bytes = extensions.tls_serialize_detached().expect("it serialises");
    ExtensionList::mls_decode_exhaustive(&bytes).expect("it is a list of extensions")
}

/// Basic credentials, which several members have if they are clients of one user: `mls-rs` wants to know members
/// apart, and here their keys do that.
#[derive(Clone)]
struct Clients;

impl IdentityProvider for Clients {
    type Error = Infallible;

    fn validate_member(
        &self,
        _: &SigningIdentity,
        _: Option<MlsTime>,
        _: MemberValidationContext<'_>,
    ) -> Result<(), Infallible> {
        Ok(())
    }

    fn validate_external_sender(
        &self,
        _: &SigningIdentity,
        _: Option<MlsTime>,
        _: Option<&ExtensionList>,
    ) -> Result<(), Infallible> {
        Ok(())
    }

    fn identity(&self, identity: &SigningIdentity, _: &ExtensionList) -> Result<Vec<u8>, Infallible> {
        Ok(identity.signature_key.as_bytes().to_vec())
    }

    fn valid_successor(
        &self,
        before: &SigningIdentity,
        after: &SigningIdentity,
        _: &ExtensionList,
    ) -> Result<bool, Infallible> {
        Ok(before.credential == after.credential)
    }

    fn supported_types(&self) -> Vec<CredentialType> {
        vec![CredentialType::BASIC]
    }
}
