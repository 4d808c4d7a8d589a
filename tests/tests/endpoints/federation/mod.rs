//! Federation: what this homeserver tells others of itself, and clients of others.

pub mod describe_server;
mod head;
pub mod introduce_server;
pub mod open_request;
pub mod relay_request;
pub mod relay_token_request;
pub mod show_homeserver;

use postern_protocol::key::SigningKey;
use postern_tests_kit::World;

/// A homeserver whose key the operator pinned, and which is not reached.
pub const PINNED: &str = "pinned.example";
/// A homeserver that the operator blocked.
pub const BLOCKED: &str = "blocked.example";

/// A key of the pinned homeserver.
pub async fn pinned(world: &World) -> SigningKey {
    let key = SigningKey::generate();
    let sql = "SELECT operator.trust_homeserver_key($1, $2)";
    let public = key.public_key();
    world.admin.execute(sql, &[&PINNED, &public.as_bytes().as_slice()]).await.expect("the operator may");
    key
}

/// The blocked homeserver is blocked.
pub async fn block(world: &World) {
    world.admin.execute("SELECT operator.block_domain($1)", &[&BLOCKED]).await.expect("the operator may");
}
