"""Devices: finding and choosing them, what they compile for, their memory, queue and caches."""
