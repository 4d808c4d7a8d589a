//! The promises, tried with several server processes on one database that crash, restart and race: a token pays
//! once, a group has one order, nothing accepted is lost, and who waits is woken. What a single request means is
//! tried elsewhere.

mod cast;
mod crash;
mod ledger;
mod load;
mod long_poll;
mod order;
mod reader;
mod tokens;
mod world;
