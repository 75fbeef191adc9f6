//! Which names look like the one that was asked for. Pure.

/// How many names are offered.
const MOST: usize = 3;

/// Those of `known` that someone may have meant by `name`, the most similar first.
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

/// Without what people write in one way or another: case, dashes, underscores, dots.
fn plain(name: &str) -> String {
    let letters = name.chars().filter(|char| char.is_alphanumeric());
    letters.flat_map(char::to_lowercase).collect()
}

/// How far the two are apart, unless that is too far: in insertions, removals, replacements.
/// A part of a longer name counts as one, so that `greeter` finds `greeter.v1.Greeter`.
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
