//! End-to-end tests over real PostgreSQL clusters and real `postern` processes, in six suites, each a program of its
//! own and a view of the whole:
//!
//! - `endpoints`: every endpoint, asked rightly and wrongly over HTTP.
//! - `gate`: tokens, their issuer keys, allowances and redemption.
//! - `clients`: the client library at work.
//! - `federation`: several domains with each other, over bad lines and with bad neighbours.
//! - `promises`: order, delivery and wake-ups while servers and databases die.
//! - `system`: the work of operators, and the privacy of the database.
//!
//! They share the crate `postern-tests-kit`: clusters, servers, a push service, and a client driven by hand.
//!
//! The releases that tests upgrade to are here, for the suites and for the program that serves one of them.

pub mod next;
