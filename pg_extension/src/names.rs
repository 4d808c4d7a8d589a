//! User names for the database: it takes them in their one form only, and lets no two accounts have names that look alike
//! (AS-1). The rules are the protocol's, so that server, clients and database have the same ones.

use pgrx::prelude::*;
use postern_protocol::name;

/// The one form of the part of a user name before the `@`; null for what is none.
#[pg_extern]
fn user_name(text: &str) -> Option<String> {
    name::canonical(text).ok()
}

/// The form in which such names are compared.
#[pg_extern]
fn skeleton(name: &str) -> String {
    name::skeleton(name)
}
