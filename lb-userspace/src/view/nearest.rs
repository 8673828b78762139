//! Names that an unknown name may have been meant for.

use crate::failure::{Code, Failure};

/// Most names suggested.
const MOST: usize = 3;

/// The failure for `name`, which is no `object` (`backend`, `service`, …), with the nearest of `known`.
#[must_use]
pub fn not_found<'a>(object: &str, name: &str, known: impl IntoIterator<Item = &'a str>) -> Failure {
    let known: Vec<&str> = known.into_iter().collect();
    let near = nearest(name, &known);
    let hint = match (near.is_empty(), known.is_empty()) {
        (false, _) => format!("; nearest: {}", near.join(", ")),
        (true, true) => format!("; there is no {object}"),
        (true, false) if matches!(object, "backend" | "service") => format!("; `weir {object}s` lists them"),
        (true, false) => String::new(),
    };
    Failure::new(Code::NotFound, format!("no such {object} {name:?}{hint}"))
}

/// Up to three of `known` that differ from `name` in few characters, nearest first.
fn nearest<'a>(name: &str, known: &[&'a str]) -> Vec<&'a str> {
    let limit = (name.chars().count() / 3).max(1);
    let mut near: Vec<(usize, &str)> = known
        .iter()
        .map(|candidate| (strsim::damerau_levenshtein(name, candidate), *candidate))
        .filter(|(distance, _)| *distance <= limit)
        .collect();
    near.sort_unstable();
    near.dedup();
    near.into_iter().take(MOST).map(|(_, candidate)| candidate).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_name_is_answered_with_the_nearest() {
        let failure = not_found("backend", "web-9", ["web-1", "api-1", "database"]);
        assert_eq!(failure.message, r#"no such backend "web-9"; nearest: web-1"#);
        assert_eq!(failure.code, Code::NotFound);
    }

    #[test]
    fn a_name_like_no_other_is_answered_with_where_to_look() {
        let failure = not_found("service", "mail", ["web", "dns"]);
        assert_eq!(failure.message, r#"no such service "mail"; `weir services` lists them"#);
        assert_eq!(not_found("pool", "web", []).message, r#"no such pool "web"; there is no pool"#);
    }
}
