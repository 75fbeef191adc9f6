//! Finds names that are similar to a given one. Pure.

/// The most names in the answer.
const MOST: usize = 3;

/// The names of `known` that are similar to `name`, the most similar first.
pub(crate) fn similar<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Vec<&'a str> {
    let wanted = plain(name);
    let mut found: Vec<(usize, &str)> = known
        .into_iter()
        .filter(|other| *other != name)
        .filter_map(|other| Some((distance(&wanted, &plain(other))?, other)))
        .collect();
    found.sort();
    found.dedup();
    found.truncate(MOST);
    found.into_iter().map(|(_, name)| name).collect()
}

/// The name without case, dashes, underscores and dots.
fn plain(name: &str) -> String {
    let letters = name.chars().filter(|char| char.is_alphanumeric());
    letters.flat_map(char::to_lowercase).collect()
}

/// The edit distance of two names (insertions, removals, replacements), unless it is too large.
/// A part of a longer name has distance 1, so that `greeter` finds `greeter.v1.Greeter`.
fn distance(one: &str, other: &str) -> Option<usize> {
    let shorter = one.chars().count().min(other.chars().count());
    if shorter >= 4 && (one.contains(other) || other.contains(one)) {
        return Some(usize::from(one != other));
    }
    let distance = strsim::levenshtein(one, other);
    (distance <= (shorter / 3).clamp(1, 2)).then_some(distance)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn typing_errors_and_other_ways_to_write_a_name_are_found() {
        let known = ["greeter", "billing", "user-service", "greeter.v1.Greeter"];
        for (asked, meant) in [
            ("greter", "greeter"),
            ("Greeter", "greeter"),
            ("greeetr", "greeter"),
            ("user_service", "user-service"),
            ("biling", "billing"),
        ] {
            let found = similar(asked, known);
            assert_eq!(found.first(), Some(&meant), "{asked}: {found:?}");
        }
        assert_eq!(similar("orders", known), Vec::<&str>::new());
        assert_eq!(similar("greeter", known), ["greeter.v1.Greeter"]);
    }
}
