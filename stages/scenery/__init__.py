"""What the generated scenes are made of: textures, solids, camera, light, and how they move."""
