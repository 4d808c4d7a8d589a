//! Information about the server for anyone: whether it is alive and ready, and the meanings of its problem types.

pub mod explain_problem;
pub mod health;
pub mod ready;
