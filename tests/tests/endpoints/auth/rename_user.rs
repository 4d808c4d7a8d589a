//! `PUT /as/account/name` (AS-9)

use postern_protocol::{
    account::RenameUser,
    auth::{CommitIdentity, IdentityCommitted},
    credential::ClientCredential,
    eid::SignedState,
    name::UserName,
    problem::ProblemType,
    second_proof::{Operation, RecoveryKey, SecondProof},
};
use postern_tests_kit::{Call, Commit, Made, Party, User, World, device_of};
use rand::RngCore;
use reqwest::StatusCode;

use super::commit_identity::random_user;
use crate::every_route::Valid;

pub fn name(local: &str) -> UserName {
    format!("{local}@home.example").parse().unwrap()
}

/// An update of the device's own leaf, which gets this name.
pub fn taking(device: &mut Party, to: &UserName) -> Made {
    let identity = Some(to.to_string().into_bytes());
    device.commit(Commit { update: true, identity, ..Default::default() })
}

pub fn commit_of(user: &User, to: &UserName, made: &Made, by: &Party) -> CommitIdentity {
    let group_info = made.group_info.clone().unwrap();
    let eid = user.eid.followed_by(made.commit.as_bytes());
    let state = SignedState::sign(to, &user.founding, eid, &group_info, &by.key);
    CommitIdentity { commit: made.commit.clone(), group_info, state }
}

fn renaming_with(user: &User, to: &UserName, commit: CommitIdentity, by: &Party, key: &RecoveryKey) -> Call {
    let operation = Operation::RenameUser { to, eid: commit.state.eid };
    let proof = SecondProof::recovery(key, &user.name, &operation);
    proven_renaming(to, commit, by, proof)
}

pub fn proven_renaming(to: &UserName, commit: CommitIdentity, by: &Party, proof: SecondProof) -> Call {
    let body = RenameUser { name: to.clone(), commit, proof };
    Call::put("/as/account/name").with(&body).signed_by(&by.key)
}

fn renaming(user: &User, to: &UserName, made: &Made, by: &Party) -> Call {
    renaming_with(user, to, commit_of(user, to, made, by), by, &user.recovery_key)
}

pub async fn valid(world: &World) -> Valid {
    let mut user = random_user(world).await;
    let to = name(&format!("renamed-{:016x}", rand::rng().next_u64()));
    let made = taking(&mut user.device, &to);
    let stranger = Some(ProblemType::NotAllowed);
    Valid { stranger, ..Valid::new(renaming(&user, &to, &made, &user.device), StatusCode::OK) }
}

#[tokio::test]
async fn a_user_takes_another_name_with_all_clients_and_goes_on_as_the_same() {
    let world = World::start().await;
    let mut alice = world.user("alice").await;
    let mut second = world.add_device(&mut alice).await;
    world.pay(&super::sign_credential::asking(&second)).await.assert_ok("a credential");
    let before = world.look_up(&alice.name).await;
    let alicia = name("alicia");
    let made = taking(&mut alice.device, &alicia);
    let accepted: IdentityCommitted =
        world.pay(&renaming(&alice, &alicia, &made, &alice.device)).await.decode();
    assert_eq!(accepted.epoch, alice.eid.epoch + 1);
    alice.moved(&made.commit);
    alice.device.merge();
    second.receive(&made.commit);

    let record = world.look_up(&alicia).await;
    assert_eq!(record.name, alicia);
    assert_eq!(record.current.founding, before.current.founding, "the same identity");
    assert_eq!(record.current.state.eid, alice.eid);
    assert_eq!(record.clients.len(), 2);
    for client in &record.clients {
        assert_eq!(ClientCredential::parse(&client.credential).unwrap().user, alicia);
    }
    let old = Call::get(format!("/as/users/{}", alice.name));
    world.pay(&old).await.assert_problem("the old name", ProblemType::NotFound);

    // The other client's leaf has the old name still, and takes the new one over, or adds a client of the new name.
    let mut alice = User { name: alicia, ..alice };
    let third = alice.further_device();
    let adding = Commit { add: vec![third.key_package()], ..Default::default() };
    let made = world.commit_identity_by(&mut alice, &mut second, adding).await;
    alice.device.receive(&made.commit);
    let of_old_name = device_of(&name("alice"));
    let adding = Commit { add: vec![of_old_name.key_package()], update: true, ..Default::default() };
    let made = second.commit(adding);
    let refused = postern_tests_kit::identity_commit(&alice, &made, &second);
    world.assert_refused_for("a client of the old name", &refused, "the user's name").await;
    second.forget();
    let taking =
        Commit { update: true, identity: Some(alice.name.to_string().into_bytes()), ..Default::default() };
    world.commit_identity_by(&mut alice, &mut second, taking).await;
    world.close();
}

#[tokio::test]
async fn a_name_is_changed_by_the_owners_proof_and_a_client_that_signs_the_identity_under_it_only() {
    let world = World::start().await;
    let (mut alice, bob) = (world.user("alice").await, world.user("bob").await);
    let (alicia, other) = (name("alicia"), name("alison"));
    let made = taking(&mut alice.device, &alicia);
    let (commit, key) = (commit_of(&alice, &alicia, &made, &alice.device), &alice.recovery_key);
    let under = |to: &UserName| commit_of(&alice, to, &made, &alice.device);
    let with = |to: &UserName, commit: &CommitIdentity| {
        renaming_with(&alice, to, commit.clone(), &alice.device, key)
    };
    let foreign: UserName = "alicia@elsewhere.example".parse().unwrap();
    let wrong = ProblemType::WrongProof;
    for (what, call, expected) in [
        ("no key", renaming_with(&alice, &alicia, commit.clone(), &alice.device, &bob.recovery_key), wrong),
        (
            "a proof for another name",
            {
                let body =
                    with(&alicia, &commit).with_field("name", ciborium::Value::from(other.to_string()));
                body.signed_by(&alice.device.key)
            },
            wrong,
        ),
        ("another user's client", with(&alicia, &commit).signed_by(&bob.device.key), wrong),
        ("a state under the old name", with(&alicia, &under(&alice.name)), ProblemType::InvalidMls),
        ("a leaf of another name", with(&other, &under(&other)), ProblemType::InvalidMls),
        ("another domain", with(&foreign, &under(&foreign)), ProblemType::ForeignDomain),
    ] {
        world.assert_refuses(what, &call, expected).await;
    }
    alice.device.forget();
    let third = alice.further_device();
    let identity = Some(alicia.to_string().into_bytes());
    let adding = Commit { add: vec![third.key_package()], identity, ..Default::default() };
    let made = alice.device.commit(adding);
    let call = renaming(&alice, &alicia, &made, &alice.device);
    world.assert_refuses("more than a name", &call, ProblemType::InvalidMls).await;
    alice.device.forget();
    let made = alice.device.commit(Commit { update: true, ..Default::default() });
    let call = renaming(&alice, &alicia, &made, &alice.device);
    world.assert_refuses("a leaf that keeps the old name", &call, ProblemType::InvalidMls).await;
    // The same as an ordinary commit: the leaf's name is not the user's.
    alice.device.forget();
    let made = taking(&mut alice.device, &alicia);
    let call = postern_tests_kit::identity_commit(&alice, &made, &alice.device);
    world.assert_refused_for("a commit with another name", &call, "the user's name").await;

    let valid = renaming(&alice, &alicia, &made, &alice.device);
    world.pay(&valid).await.assert_ok("the owner");
    world.assert_refuses("a repeat", &valid, wrong).await;
    world.close();
}

#[tokio::test]
async fn a_new_name_is_free_by_the_rules_of_registration_and_the_old_one_is_kept_for_a_time() {
    let world = World::start().await;
    let mut alice = world.user("alice").await;
    world.user("bob").await;
    for taken in ["bob", "admin", "adm1n", "alice"] {
        let made = taking(&mut alice.device, &name(taken));
        let call = renaming(&alice, &name(taken), &made, &alice.device);
        world.assert_refuses(taken, &call, ProblemType::NameTaken).await;
        alice.device.forget();
    }
    let rename = async |alice: &mut User, to: &str| {
        let to = name(to);
        let made = taking(&mut alice.device, &to);
        let reply = world.pay(&renaming(alice, &to, &made, &alice.device)).await;
        if reply.status == StatusCode::OK {
            alice.moved(&made.commit);
            alice.device.merge();
            alice.name = to;
        } else {
            alice.device.forget();
        }
        reply
    };
    rename(&mut alice, "alicia").await.assert_ok("a free name");
    let reply = rename(&mut alice, "alison").await;
    reply.assert_problem("a second change in a month", ProblemType::TooManyChanges);
    assert_eq!(reply.header("ratelimit-policy"), r#""monthly";q=1;w=2678400"#);

    // Nobody else gets the old name or one like it, by registration or change; its owner does.
    for like in ["alice", "a1ice", "al.ice"] {
        let reply = world.send(&User::new(like).registration().wire()).await;
        reply.assert_problem(like, ProblemType::NameTaken);
    }
    let mut carol = world.user("carol").await;
    rename(&mut carol, "alice").await.assert_problem("another user", ProblemType::NameTaken);
    let pass_a_month = async || {
        world.admin.execute("UPDATE auth.account_changes SET month = month - 1", &[]).await.unwrap();
    };
    pass_a_month().await;
    rename(&mut alice, "alice").await.assert_ok("back again");
    assert_eq!(world.count("auth.former_names").await, 1, "alicia");

    // It is free when its time is over, or at once if the operator wants that.
    let pass = "UPDATE auth.former_names SET free = auth.month(now())";
    world.admin.execute(pass, &[]).await.unwrap();
    world.admin.execute("SELECT auth.clean_up(0)", &[]).await.unwrap();
    rename(&mut carol, "alicia").await.assert_ok("a name whose time is over");
    world.admin.execute("SELECT operator.set_user_limit('former_name_days', 0)", &[]).await.unwrap();
    pass_a_month().await;
    rename(&mut carol, "caroline").await.assert_ok("another change");
    world.send(&User::new("alicia").registration().wire()).await.assert_ok("free at once");
    world.close();
}
