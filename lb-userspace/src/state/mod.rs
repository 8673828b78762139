//! Runtime changes: what the operator did to backends besides the config.
//!
//! One way: request → [`change`] (pure: selection, guard, new overlay) → [`store`] (one file, replaced atomically) →
//! whoever applies the overlay to health and maps.

pub mod change;
pub mod denied;
pub mod limited;
pub mod lock;
pub mod overlay;
pub mod request;
pub mod store;
