//! Rendezvous of a user's old and new device (AS-7).

pub mod create_rendezvous;
pub mod end_rendezvous;
pub mod join_rendezvous;
pub mod leave_payload;
pub mod receive_payloads;

use postern_protocol::{
    Payload,
    key::SigningKey,
    problem::ProblemType,
    rendezvous::{
        CreateRendezvous, JoinRendezvous, LeavePayload, PayloadsReceived, ReceivePayloads, RendezvousCreated,
        RendezvousNumber,
    },
};
use postern_tests_kit::{Call, Reply, World};
use reqwest::Method;

/// A rendezvous, and both of its sides.
pub struct Meeting {
    pub number: RendezvousNumber,
    pub owner: SigningKey,
    pub guest: SigningKey,
}

pub fn creating(owner: &SigningKey) -> Call {
    Call::post("/rendezvous").with(&CreateRendezvous {}).signed_by(owner)
}

impl Meeting {
    /// A rendezvous to which nobody came yet.
    pub async fn open(world: &World) -> Self {
        let (owner, guest) = (SigningKey::generate(), SigningKey::generate());
        let created: RendezvousCreated = world.pay(&creating(&owner)).await.decode();
        Self { number: created.number, owner, guest }
    }

    pub async fn of_two(world: &World) -> Self {
        let meeting = Self::open(world).await;
        world.send(&meeting.joining(&meeting.guest).wire()).await.assert_ok("joining");
        meeting
    }

    pub fn joining(&self, guest: &SigningKey) -> Call {
        self.call(Method::POST, "/join").with(&JoinRendezvous {}).signed_by(guest)
    }

    pub fn leaving(&self, side: &SigningKey, place: u16, payload: &[u8]) -> Call {
        let payload = Payload::new(payload.to_vec());
        self.call(Method::POST, "/payloads").with(&LeavePayload { place, payload }).signed_by(side)
    }

    pub fn receiving(&self, side: &SigningKey, after: u16, wait: u16) -> Call {
        self.call(Method::POST, "/receive").with(&ReceivePayloads { after, wait }).signed_by(side)
    }

    pub fn ending(&self, side: &SigningKey) -> Call {
        self.call(Method::DELETE, "").signed_by(side)
    }

    fn call(&self, method: Method, rest: &str) -> Call {
        Call::new(method, format!("/rendezvous/{}{rest}", self.number))
    }

    /// The keys of both sides, each with the name of its side.
    pub fn sides(&self) -> [(&'static str, &SigningKey); 2] {
        [("the owner", &self.owner), ("the guest", &self.guest)]
    }
}

/// Paths of an operation that lead to no rendezvous.
pub fn other_rendezvous(operation: &str) -> Vec<(String, ProblemType)> {
    let target = |number: &str| format!("/rendezvous/{number}{operation}");
    let mut targets: Vec<_> = ["99999", "0", "1000000", "+12345", "12345a", "%31%32", "4294967297"]
        .map(|number| (target(number), ProblemType::MalformedRequest))
        .to_vec();
    targets.push((target("100000"), ProblemType::NotFound));
    targets
}

/// The payloads of an answer, as texts.
pub fn texts(reply: &Reply) -> Vec<String> {
    let received: PayloadsReceived = reply.decode();
    let text =
        |payload: Payload| String::from_utf8(payload.into_bytes()).expect("payloads of tests are text");
    received.payloads.into_iter().map(text).collect()
}

/// Sets a limit, as operators do.
pub async fn limit(world: &World, name: &str, value: i32) {
    let operator = world.cluster.connect_as("postern_operator").await;
    let sql = "SELECT operator.set_rendezvous_limit($1, $2)";
    operator.execute(sql, &[&name, &value]).await.expect("the operator may");
}
