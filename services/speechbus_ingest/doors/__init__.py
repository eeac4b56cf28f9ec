"""The protocols that clients speak, one module each: they translate and own no speech logic."""
