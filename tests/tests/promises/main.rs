//! The promises, tried with several server processes on one database that crash, restart and race: a token pays
//! once, a group has one order, nothing accepted is lost, and a client that waits is woken. Single requests are
//! tried in other suites.

mod cast;
mod crash;
mod ledger;
mod load;
mod long_poll;
mod order;
mod reader;
mod rolling;
mod tokens;
mod world;
