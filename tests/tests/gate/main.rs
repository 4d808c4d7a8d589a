//! The gate (AAS-1 to AAS-6): keys and their rotation, allowances, issuance in every format of the standards, and
//! what of all that can be joined.

mod admission;
mod allowances;
mod door;
mod double_spend;
mod expiry;
mod foreign_client;
mod fuzz;
mod homeservers;
mod issuance;
mod keys;
mod operator;
mod races;
mod redemption;
mod registration;
mod unlinkability;
mod users;
mod vectors;
mod wallet;
