//! What was likely meant by a name that is not known.

/// Below this likeness (Jaro-Winkler, 0 to 1) a name is no typo of another.
const LIKENESS: f64 = 0.8;

/// The known name that was likely meant, if one is near.
pub fn closest<T: AsRef<str>>(name: &str, known: impl IntoIterator<Item = T>) -> Option<T> {
    // What is longer than any name is no typo of one, and dear to compare.
    let name = Some(name).filter(|name| name.len() <= 100)?.to_lowercase();
    let scored = known.into_iter().map(|known| (strsim::jaro_winkler(&name, &known.as_ref().to_lowercase()), known));
    scored.filter(|(score, _)| *score >= LIKENESS).max_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, known)| known)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_typo_finds_its_name_and_what_is_far_from_all_finds_none() {
        assert_eq!(closest("latenes", ["late", "lateness", "map"]), Some("lateness"));
        assert_eq!(closest("xyz", ["map", "reduce"]), None);
    }
}
