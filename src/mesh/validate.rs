//! Checks across objects.
