pub mod config;
pub mod database;
pub mod master_key;
pub mod serve;
