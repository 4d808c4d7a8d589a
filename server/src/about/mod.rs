//! What the server tells anyone of itself: that it is alive, and what its problem types mean.

pub mod explain_problem;
pub mod health;
