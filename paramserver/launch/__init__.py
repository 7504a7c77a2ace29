"""Starts peers as child processes of this machine and makes sure that none outlives its parent."""
