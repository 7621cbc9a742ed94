"""Plans: what would be changed on which host, saved; applied exactly so, resumed, taken back. Decisions are pure."""
