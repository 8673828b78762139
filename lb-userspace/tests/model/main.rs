//! The whole packet pipeline over maps in plain memory, written by the real control plane. Needs no privileges.

mod capacity;
mod deltas;
mod frames;
mod instances;
mod lifecycle;
mod lists;
mod published;
mod quic;
mod reload;
mod rules;
mod scale;
mod schedulers;
mod split;
mod world;
