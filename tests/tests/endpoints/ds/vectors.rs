//! Other people's MLS messages and trees (github.com/mlswg/mls-implementations: `messages.json` and
//! `tree-validation.json`, a few of each): the parser knows what they are, and as part of a request here all of them
//! are refused, in every place, and change nothing.

use ciborium::Value;
use postern_protocol::{MlsMessage, problem::ProblemType};
use postern_tests::in_tree;

use crate::world::{Call, Commit, World};

fn read<T: serde::de::DeserializeOwned>(file: &str) -> T {
    let text = std::fs::read(in_tree("tests/vectors/mls").join(file)).expect("it is in the repository");
    serde_json::from_slice(&text).expect("it is as it was published")
}

type Vectors = Vec<std::collections::BTreeMap<String, String>>;

impl World {
    /// Refused, as what it is.
    async fn assert_refused_for(&self, what: &str, call: &Call, reason: &str) {
        let reply = self.pay(call).await;
        let problem = reply.assert_problem(what, ProblemType::InvalidMls);
        let detail = problem.detail.expect("the developer is told why");
        assert!(detail.contains(reason), "{what}: {detail}");
    }
}

#[tokio::test]
async fn published_messages_are_known_for_what_they_are_and_refused_everywhere() {
    let world = World::start().await;
    let mut group = world.group(2).await;
    let newcomer = world.candidate().await;
    let add = vec![newcomer.party.key_package()];
    let (_, commit) = group.make(0, Commit { add, ..Default::default() });
    let vectors: Vectors = read("messages.json");
    assert!(!vectors.is_empty());
    for vector in &vectors {
        world.stock(100).await;
        let before = world.snapshot().await;
        for (name, hex) in vector {
            let bytes = hex::decode(hex).expect("vectors are in hexadecimal");
            let expected = match name.as_str() {
                "public_message_proposal" | "public_message_commit" => "the message is of another group",
                "mls_welcome"
                | "mls_group_info"
                | "mls_key_package"
                | "private_message"
                | "public_message_application" => "",
                // Parts of messages, and a tree.
                _ => "not a well-formed MLSMessage",
            };
            let call = group.submit(0, &MlsMessage::new(bytes.clone()), None);
            world.assert_refused_for(name, &call, expected).await;
            for field in ["welcome", "group_info"] {
                // Whom a Welcome is for, only its joiner can tell.
                if (name.as_str(), field) == ("mls_welcome", "welcome") {
                    continue;
                }
                let call = commit.with_field(field, Value::Bytes(bytes.clone()));
                world.assert_refused_for(&format!("{name} as {field}"), &call, "").await;
            }
        }
        world.snapshot().await.assert_same(&before, "published messages");
    }
    world.pay(&commit).await.assert_ok("the commit by itself");
    world.close();
}

#[tokio::test]
async fn published_trees_belong_to_no_group_here() {
    let world = World::start().await;
    let creation = super::create_group::valid(&world).await.call;
    let trees: Vec<String> = read("trees.json");
    assert!(!trees.is_empty());
    let before = world.snapshot().await;
    for (number, tree) in trees.iter().enumerate() {
        let tree = Value::Bytes(hex::decode(tree).expect("vectors are in hexadecimal"));
        let call = creation.with_field("ratchet_tree", tree);
        // openmls knows the tree for one, and the GroupInfo for another's.
        world
            .assert_refused_for(&format!("tree {number}"), &call, "the group info or ratchet tree is invalid")
            .await;
    }
    world.snapshot().await.assert_same(&before, "published trees");
    world.pay(&creation).await.assert_ok("the creation by itself");
    world.close();
}
