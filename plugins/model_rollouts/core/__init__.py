"""Pure decision core: no IO, no clock, no environment, no framework."""
