//! The Delivery Service.

use postern_protocol::{ds::GroupId, problem::ProblemType};

pub mod create_group;
pub mod delete_group;
mod elsewhere;
pub mod encryption_keys;
pub mod fetch_group_info;
pub mod fetch_welcome_tree;
mod foreign;
mod fuzz;
pub mod library;
mod model;
mod paths;
pub mod reserve_group_id;
pub mod submit_message;
mod vectors;

/// Other targets for a request to a group; `unknown` is a group that does not exist.
fn targets(id: &GroupId, of: &str, unknown: (&GroupId, ProblemType)) -> Vec<(String, ProblemType)> {
    let foreign = GroupId::new(*id.id(), "elsewhere.example".parse().unwrap());
    let id = id.to_base64url();
    let target = |id: &str| format!("/ds/groups/{id}/{of}").trim_end_matches('/').to_owned();
    vec![
        (target(&unknown.0.to_base64url()), unknown.1),
        (target(&foreign.to_base64url()), ProblemType::ForeignDomain),
        (target(&id[..20]), ProblemType::MalformedRequest),
        (target(&id[..22]), ProblemType::MalformedRequest),
        (target(&format!("{id}=")), ProblemType::MalformedRequest),
        (target("*"), ProblemType::MalformedRequest),
        (target("%ff"), ProblemType::MalformedRequest),
    ]
}
