pub mod config;
pub mod database;
pub mod master_key;
pub mod serve;
pub mod check;
pub mod cli;
pub mod embedded;
pub mod migrate;
