//! One value for each resource type.

use std::{
    array,
    ops::{Index, IndexMut},
};

use super::resource_type::ResourceType;

const COUNT: usize = ResourceType::ALL.len();

/// One value for each resource type, in push order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct PerType<T>([T; COUNT]);

impl<T> PerType<T> {
    /// Asks `make` for the value of each type, in push order.
    pub fn from_fn(mut make: impl FnMut(ResourceType) -> T) -> Self {
        Self(array::from_fn(|place| make(ResourceType::ALL[place])))
    }

    /// Iterates over the types with their values, in push order.
    pub fn iter(&self) -> impl Iterator<Item = (ResourceType, &T)> {
        ResourceType::ALL.into_iter().zip(&self.0)
    }

    /// Iterates over the types with their values, in push order, so that they can be changed.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (ResourceType, &mut T)> {
        ResourceType::ALL.into_iter().zip(&mut self.0)
    }

    /// Iterates over the values alone, in push order.
    pub fn values(&self) -> impl Iterator<Item = &T> {
        self.0.iter()
    }

    /// Iterates over the values alone, in push order, so that they can be changed.
    pub fn values_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.0.iter_mut()
    }
}

impl<T> Index<ResourceType> for PerType<T> {
    type Output = T;

    fn index(&self, kind: ResourceType) -> &T {
        &self.0[kind as usize]
    }
}

impl<T> IndexMut<ResourceType> for PerType<T> {
    fn index_mut(&mut self, kind: ResourceType) -> &mut T {
        &mut self.0[kind as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_type_has_a_value_of_its_own() {
        let mut words = PerType::from_fn(ResourceType::as_str);
        words[ResourceType::Listener] = "changed";
        let expected = ResourceType::ALL.map(|kind| (kind, if kind == ResourceType::Listener { "changed" } else { kind.as_str() }));
        assert_eq!(words.iter().map(|(kind, word)| (kind, *word)).collect::<Vec<_>>(), expected);
    }
}
