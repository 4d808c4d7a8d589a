//! `ts-mls`, in a Node process: `tests/node/ts-mls/client.mjs`.

use std::{
    cell::RefCell,
    io::{BufRead as _, BufReader, Write as _},
    process::{Child, ChildStdin, ChildStdout, Stdio},
    rc::Rc,
};

use postern_protocol::{
    GroupInfo, MlsMessage, PublicKey, RatchetTree, Welcome,
    ds::CurrentGroup,
    mls::{DELIVERY_ADDRESS, USER_KEY},
};
use postern_tests_kit::Made;
use serde_json::{Value, json};

use super::{Change, Leaf, Proposal, Side, View};

/// The process, in which any number of members live.
pub struct Node {
    child: Child,
    questions: ChildStdin,
    answers: BufReader<ChildStdout>,
}

struct TsMls {
    node: Rc<RefCell<Node>>,
    number: Value,
}

impl Node {
    pub fn start() -> Rc<RefCell<Self>> {
        let mut command = postern_tests_kit::node("ts-mls");
        command.arg("client.mjs").stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("node runs");
        let questions = child.stdin.take().expect("it was piped");
        let answers = BufReader::new(child.stdout.take().expect("it was piped"));
        Rc::new(RefCell::new(Self { child, questions, answers }))
    }

    fn ask(&mut self, question: &Value) -> Value {
        writeln!(self.questions, "{question}").expect("the client reads");
        let mut line = String::new();
        self.answers.read_line(&mut line).expect("the client answers");
        let answer: Value = serde_json::from_str(&line).expect("it answers in JSON");
        assert!(answer.get("error").is_none(), "{}: {}", question["what"], answer["error"]);
        answer
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub fn member(node: &Rc<RefCell<Node>>, leaf: &Leaf) -> Box<dyn Side> {
    let new = json!({
        "what": "new",
        "seed": hex::encode(leaf.key.seed()),
        "key": hex::encode(leaf.key.public_key().as_bytes()),
        "identity": hex::encode(leaf.pseudonym.0),
        "extensions": [
            [DELIVERY_ADDRESS, hex::encode(leaf.delivery().to_bytes())],
            [USER_KEY, hex::encode(leaf.user_key().to_bytes())],
        ],
        "days": 60,
    });
    let number = node.borrow_mut().ask(&new)["member"].take();
    Box::new(TsMls { node: node.clone(), number })
}

impl TsMls {
    fn ask(&self, what: &str, mut question: Value) -> Value {
        question["member"] = self.number.clone();
        question["what"] = what.into();
        self.node.borrow_mut().ask(&question)
    }

    fn made(answer: &Value) -> Made {
        Made {
            commit: MlsMessage::new(bytes(&answer["commit"]).expect("it was made")),
            group_info: bytes(&answer["group_info"]).map(GroupInfo::new),
            welcome: bytes(&answer["welcome"]).map(Welcome::new),
        }
    }
}

fn bytes(text: &Value) -> Option<Vec<u8>> {
    text.as_str().map(|text| hex::decode(text).expect("it is hexadecimal"))
}

impl Side for TsMls {
    fn key_package(&mut self) -> MlsMessage {
        MlsMessage::new(bytes(&self.ask("key_package", json!({}))["key_package"]).expect("it was made"))
    }

    fn join(&mut self, welcome: &Welcome, tree: &RatchetTree) {
        let (welcome, tree) = (hex::encode(welcome.as_bytes()), hex::encode(tree.as_bytes()));
        self.ask("join", json!({ "welcome": welcome, "ratchet_tree": tree }));
    }

    fn join_externally(&mut self, current: &CurrentGroup, voucher: Option<Vec<u8>>) -> Made {
        Self::made(&self.ask(
            "join_externally",
            json!({
                "group_info": hex::encode(current.group_info.as_bytes()),
                "ratchet_tree": hex::encode(current.ratchet_tree.as_bytes()),
                "authenticated_data": hex::encode(voucher.unwrap_or_default()),
            }),
        ))
    }

    fn commit(&mut self, change: &Change) -> Made {
        assert!(change.context.is_none(), "only the founder changes the context here");
        let add: Vec<_> = change.add.iter().map(|added| hex::encode(added.as_bytes())).collect();
        let remove: Vec<_> = change.remove.iter().map(|key| hex::encode(key.as_bytes())).collect();
        Self::made(&self.ask("commit", json!({ "add": add, "remove": remove })))
    }

    fn merge(&mut self) {
        self.ask("merge", json!({}));
    }

    fn propose(&mut self, proposal: Proposal) -> Option<MlsMessage> {
        // It has no place for the private key of a leaf that it proposes.
        if proposal == Proposal::Update {
            return None;
        }
        bytes(&self.ask("leave", json!({}))["message"]).map(MlsMessage::new)
    }

    fn say(&mut self, text: &[u8]) -> MlsMessage {
        let said = self.ask("say", json!({ "text": hex::encode(text) }));
        MlsMessage::new(bytes(&said["message"]).expect("it was made"))
    }

    fn receive(&mut self, message: &MlsMessage) -> Option<Vec<u8>> {
        bytes(&self.ask("receive", json!({ "message": hex::encode(message.as_bytes()) }))["text"])
    }

    fn view(&mut self) -> Option<View> {
        let view = self.ask("view", json!({}));
        let key =
            |text| PublicKey::try_from(bytes(text).expect("keys are text").as_slice()).expect("of Ed25519");
        let members = view["members"].as_array()?.iter().map(key).collect();
        Some(View { epoch_authenticator: bytes(&view["epoch_authenticator"])?, members })
    }
}
