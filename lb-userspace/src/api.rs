//! The version mark of every JSON document.

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// Version of the JSON documents.
pub const API: &str = "weir/v1";

/// The `api` field of every JSON document: always [`API`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Api;

impl Serialize for Api {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(API)
    }
}

impl<'de> Deserialize<'de> for Api {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let version = String::deserialize(deserializer)?;
        if version == API {
            return Ok(Self);
        }
        Err(de::Error::custom(format!("api version {version:?}, expected {API:?}")))
    }
}
