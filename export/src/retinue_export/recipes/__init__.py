"""How each of Retinue's own models is trained and measured: data, loss, schedule, all seeded."""
