//! `POST /ds/groups` (DS-1): creates a group under a reserved id, with its creator as the only
//! member and admin. The same request again gets its answer again, as long as nothing else has happened in the group.

use aws_lc_rs::digest::{SHA256, digest};
use http::StatusCode;
use postern_protocol::{ds::CreateGroup, encoding::Encoding, name::Domain, problem::ProblemType};
use tls_codec::Size as _;

use super::{
    Ds,
    group::{Group, OTHER_SENDER},
    homeserver_blocked,
    rules::leaf_too_large,
    sealed::Kind,
    stored::{self, LoadedGroup},
};
use crate::{
    database::outcome,
    http::{Answer, Failure, Outcome, Payment, Request},
    mls::InvalidMls,
};

outcome! {
    pub CreateGroupOutcome: "ds.create_group_outcome", paid {
        Created = "created",
        CiphersuiteForbidden = "ciphersuite_forbidden",
        LeafTooLarge = "leaf_too_large",
        HomeserverBlocked = "homeserver_blocked",
        NotReserved = "not_reserved",
    }
}

pub async fn create_group(ds: Ds, mut request: Request, payment: Payment) -> Outcome {
    let (signer, body) = request.signed_body::<CreateGroup>()?;
    ds.home.expect_local(body.group_id.domain())?;
    let digest = digest(&SHA256, &Encoding::Cbor.encode(&body));
    let validated = request.while_waiting(payment.compute(&ds.home, || validate(&ds, &body))).await?;
    let validated = match validated {
        // The id may have been reserved at a process that has a newer key.
        Err(error) if is_other_sender(&error) && ds.external_sender_keys.look_again(&ds.home).await? => {
            request.while_waiting(payment.compute(&ds.home, || validate(&ds, &body))).await?
        }
        validated => validated,
    };
    let mut group = match validated {
        Ok(group) => group,
        Err(_) if has_created(&ds, &payment, &body, digest.as_ref()).await? => return Ok(created()),
        Err(error) => return Err(error.into()),
    };
    if group.roster.by_key(signer).is_none() {
        return Err(ProblemType::NotAllowed.into());
    }
    group.attach(&body.attributes, |_| true)?;
    let state = stored::seal_epoch(&body.state_key, &body.group_id, &group);
    let leaf_domains = group.roster.members().iter().filter_map(|member| member.domain.as_ref());
    let leaf_domains: Vec<&str> = leaf_domains.map(Domain::as_str).collect();
    // The creator's is the only one.
    let leaf_bytes = group.mls.leaves().map(|(_, leaf)| leaf.tls_serialized_len()).max().unwrap_or_default();
    let leaf_bytes = i32::try_from(leaf_bytes).unwrap_or(i32::MAX);
    let (outcome, row) = payment
        .call(
            &ds.home.database,
            "SELECT outcome, max_leaf_bytes FROM ds.create_group($1, $2, $3, $4, $5, $6, $7, $8, $9)",
            &[
                &body.group_id.id().as_slice(),
                &state.roster,
                &state.tree,
                &digest.as_ref(),
                &i32::from(group.mls.ciphersuite()),
                &leaf_domains,
                &leaf_bytes,
            ],
        )
        .await?;
    match outcome {
        CreateGroupOutcome::Created => Ok(created()),
        CreateGroupOutcome::CiphersuiteForbidden => Err(ProblemType::CiphersuiteForbidden.into()),
        CreateGroupOutcome::LeafTooLarge => Err(leaf_too_large(row.get::<_, i32>("max_leaf_bytes")).into()),
        CreateGroupOutcome::HomeserverBlocked => Err(homeserver_blocked().into()),
        CreateGroupOutcome::NotReserved => Err(ProblemType::GroupExists.into()),
    }
}

fn created() -> Answer {
    Answer::empty(StatusCode::CREATED)
}

/// Whether this is the request that created the group, sent again: it was valid then, whatever key was revoked, and whatever
/// lifetime ended since. The database recognises every other repeat.
async fn has_created(ds: &Ds, payment: &Payment, body: &CreateGroup, digest: &[u8]) -> Result<bool, Failure> {
    let group = LoadedGroup::load(&ds.home, payment, &body.group_id, Kind::Roster).await?;
    Ok(group.is_some_and(|group| group.stored.epoch() == 0 && group.last_commit == digest))
}

fn is_other_sender(error: &InvalidMls) -> bool {
    matches!((error, OTHER_SENDER), (InvalidMls::Refused(found), InvalidMls::Refused(other)) if *found == other)
}

fn validate(ds: &Ds, body: &CreateGroup) -> Result<Group, InvalidMls> {
    let group = Group::create(&body.group_info, &body.ratchet_tree, ds.now())?;
    if group.mls.group_id() != body.group_id.to_mls() {
        return Err(InvalidMls::Refused("the group id in the GroupInfo differs from the one in the request"));
    }
    let creator = group.roster.members().first().map(|member| member.pseudonym);
    if group.policy.admins != Vec::from_iter(creator) {
        return Err(InvalidMls::Refused("a new group must have its creator as its only admin"));
    }
    if group.policy.state_key() != body.state_key {
        return Err(InvalidMls::Refused(
            "the state key is not the one that the state secret in the group's policy yields",
        ));
    }
    Ok(group)
}
