//! Every endpoint, asked rightly and wrongly over HTTP. Rules for all routes are in [`every_route`], which walks the
//! table of routes that the server itself registers; rules of one endpoint are in the file of its name.

mod aas;
mod auth;
mod ds;
mod every_route;
mod federation;
mod health;
mod qs;
mod rendezvous;
