//! Changes of lists whose items have an order: filters and routes.

use prost::Message;

use super::run::{Run, Step};
use crate::mesh::envoy_filter::PatchOperation;

/// Applies a patch that puts an item into a list, or takes some out. `is_anchor` tells the items that the patch names; `None`: it
/// names none, and is for the list as a whole.
pub(super) fn change<T: Message + Default>(run: &mut Run<'_>, step: Step<'_>, list: &mut Vec<T>, is_anchor: Option<&dyn Fn(&T) -> bool>) {
    use PatchOperation::{Add, InsertAfter, InsertBefore, InsertFirst, Merge, Remove, Replace};
    let anchor = is_anchor.map(|is_anchor| list.iter().position(is_anchor));
    let place = match (step.patch.operation, anchor) {
        (Merge, _) => return,
        (Remove, _) => {
            let Some(is_anchor) = is_anchor else { return };
            let before = list.len();
            list.retain(|item| !is_anchor(item));
            if list.len() < before {
                run.applied(step);
            }
            return;
        }
        (Add, _) | (InsertAfter, None) => list.len(),
        (InsertFirst, _) | (InsertBefore, None) => 0,
        (InsertBefore | Replace, Some(Some(at))) => at,
        (InsertAfter, Some(Some(at))) => at + 1,
        (InsertBefore | InsertAfter | Replace, _) => return,
    };
    let Some(item) = run.value(step) else { return };
    match step.patch.operation {
        Replace => list[place] = item,
        _ => list.insert(place, item),
    }
    run.applied(step);
}
