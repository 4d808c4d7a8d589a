//! End-to-end tests over real PostgreSQL clusters and real `postern` processes, in five suites, each a program of its
//! own and a view of the whole:
//!
//! - `endpoints`: every endpoint, asked rightly and wrongly over HTTP.
//! - `gate`: tokens, their issuer keys, allowances and redemption.
//! - `clients`: the client library at work.
//! - `promises`: order, delivery and wake-ups while servers and databases die.
//! - `system`: what operators do, and what the database gives away.
//!
//! They share the crate `postern-tests-kit`: clusters, servers, a push service, and a client driven by hand.
