//! Every endpoint, asked rightly and wrongly over HTTP. What holds for all routes is in [`road`], which walks the
//! table of routes that the server itself registers; what is an endpoint's own is in the file of its name.

mod aas;
mod auth;
mod ds;
mod health;
mod qs;
mod road;
