//! Makes the patch between a pod and the injected pod.

use std::fmt;

use serde_json::Value;

/// The most bytes that the paths of a patch may have together. A pod's patch has a few kB.
const MOST_OF_PATHS: usize = 2 << 20;

/// The paths of a patch are too long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TooLong;

impl fmt::Display for TooLong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "its patch would have paths of more than {} MB", MOST_OF_PATHS >> 20)
    }
}

/// Returns the changes that make the injected pod of the original one.
///
/// Values are in a patch once, but the path of a value is in it as often as something below it changes. So a key of 1 MB in two
/// containers that change places would make gigabytes.
///
/// # Errors
/// When the paths would be too long.
pub(super) fn between(original: &Value, injected: &Value) -> Result<json_patch::Patch, TooLong> {
    let mut left = MOST_OF_PATHS;
    spend_paths(original, injected, 0, &mut left).ok_or(TooLong)?;
    Ok(json_patch::diff(original, injected))
}

/// Spends what the paths take of all that differs below a path of this length.
fn spend_paths(original: &Value, injected: &Value, path: usize, left: &mut usize) -> Option<()> {
    match (original, injected) {
        (Value::Object(original), Value::Object(injected)) => {
            for (key, value) in injected {
                match original.get(key) {
                    Some(before) => spend_paths(before, value, path + 1 + key.len(), left)?,
                    None => spend(path + 1 + key.len(), left)?,
                }
            }
            let removed = original.keys().filter(|key| !injected.contains_key(*key));
            removed.map(|key| path + 1 + key.len()).try_for_each(|path| spend(path, left))
        }
        (Value::Array(original), Value::Array(injected)) => {
            const INDEX: usize = 7;
            for (before, value) in original.iter().zip(injected) {
                spend_paths(before, value, path + INDEX, left)?;
            }
            (0..original.len().abs_diff(injected.len())).try_for_each(|_| spend(path + INDEX, left))
        }
        (before, value) if before == value => Some(()),
        _ => spend(path, left),
    }
}

fn spend(path: usize, left: &mut usize) -> Option<()> {
    *left = left.checked_sub(path)?;
    Some(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_long_key_above_many_changes_is_refused() {
        let pod = |key: &str, first: usize| json!({"containers": [{key: (first..first + 1_000).collect::<Vec<_>>()}]});
        let long = "k".repeat(4_000);
        assert_eq!(between(&pod(&long, 0), &pod(&long, 1)), Err(TooLong));
        assert_eq!(between(&pod("k", 0), &pod("k", 1)).unwrap().len(), 1_000);
        assert_eq!(between(&pod(&long, 0), &pod(&long, 0)).unwrap().len(), 0);
        assert_eq!(between(&pod(&long, 0), &pod("k", 0)).unwrap().len(), 2);
    }
}
