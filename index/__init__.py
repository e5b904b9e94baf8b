"""The collection: embedded segments of videos on disk."""
