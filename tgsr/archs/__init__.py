"""Networks, one per file, and adapters to libraries that already have them."""

from tgsr.utils.registry import Registry

ARCHS = Registry(
    "network",
    package="tgsr.archs",
    elsewhere={
        **dict.fromkeys(("esrgan", "realesrgan", "esrgan_lite", "rrdb", "rrdb_net"), "RRDBNet"),
        **dict.fromkeys(("compact", "realesr_compact", "srvggnet", "ultracompact", "supercompact"), "SRVGGNetCompact"),
        **dict.fromkeys(("swinir_small", "swinir_medium", "swinir_large", "swinir_s", "swinir_m"), "SwinIR"),
        **dict.fromkeys(("hat_small", "hat_medium", "hat_large", "hat_s", "hat_m", "hat_l"), "HAT"),
        **dict.fromkeys(("srresnet", "sr_resnet", "srgan"), "MSRResNet"),
        **dict.fromkeys(("unet", "unetsn", "unet-sn", "unetdiscriminator"), "UNetDiscriminatorSN"),
        **dict.fromkeys(("vgg", "discriminator_vgg", "discriminator_vgg_128"), "VGGStyleDiscriminator"),
    },
)
