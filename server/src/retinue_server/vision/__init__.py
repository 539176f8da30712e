"""Images in, tensors out, and network outputs back into the pixels of the image: functions without state.

Every layer may import it; it imports nothing of Retinue but `retinue_server.errors`.
"""
