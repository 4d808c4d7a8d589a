//! Several homeservers with each other: what crosses the border between two domains, when lines, servers and neighbours are
//! bad, too. Each domain has a database and servers of its own.

mod bad_neighbours;
mod conversation;
mod deliveries;
mod failing;
mod groups;
mod hidden;
mod lines;
mod lost_answers;
mod moved;
mod neighbours;
mod on_the_way;
mod outbox;
mod people;
mod people_in_groups;
mod pipe;
mod policy;
mod restored;
mod silent_hosts;
mod turns;
mod views;
